// Command kubectl-static_ip is the kubectl plugin "kubectl static-ip": who has which
// static address, how full pools are, and what stands in the way. Only adopt-adapter,
// migrate, reserve and uninstall write.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Exit codes.
const (
	exitFine = iota
	// exitNo: there are findings, or the answer is no.
	exitNo
	exitUsage
	// exitUnseen: not everything could be looked at.
	exitUnseen
	// exitUnreachable: the cluster cannot be reached.
	exitUnreachable
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx := ctrl.SetupSignalHandler()
	os.Exit(run(ctx, filepath.Base(os.Args[0]), os.Args[1:], genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}))
}

// exit ends the program with a code of its own.
type exit struct {
	code int
	err  error
}

func (e exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e exit) Unwrap() error { return e.err }

// run runs a command, and returns the exit code.
func run(ctx context.Context, called string, args []string, streams genericiooptions.IOStreams) int {
	root := newRoot(called, streams) //nolint:contextcheck // cobra gives the context to the commands
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitFine
	}
	code := exitUsage
	var e exit
	if errors.As(err, &e) {
		code = e.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(streams.ErrOut, "error:", text)
	}
	return code
}

// newRoot is the command with its flags. It is called kubectl static-ip, or clusterctl
// static-ip where its file is linked to that name.
func newRoot(called string, streams genericiooptions.IOStreams) *cobra.Command {
	name := strings.NewReplacer("-static_ip", " static-ip", ".exe", "").Replace(called)
	root := &cobra.Command{
		Use:           name,
		Short:         "See who has which static address, and why",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	o := &options{config: genericclioptions.NewConfigFlags(true), print: genericclioptions.NewPrintFlags(""), streams: streams}
	o.config.AddFlags(root.PersistentFlags())
	root.PersistentFlags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "Look at all namespaces.")
	root.PersistentFlags().StringVarP(&o.output, "output", "o", "", "wide, json, yaml, name, jsonpath=…, go-template=…, or custom-columns=HEADING:PATH,….")
	root.PersistentFlags().BoolVar(&o.noHeaders, "no-headers", false, "Leave out the headings of columns.")
	root.PersistentFlags().StringVar(&o.color, "color", colorAuto, "Colours: auto (on a terminal, unless NO_COLOR is set), always or never.")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return o.chooseColours(os.LookupEnv) }
	// It fails only for a flag that does not exist, or that has one already.
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		[]string{"wide", "json", "yaml", "name", "jsonpath=", "go-template=", "custom-columns="}, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{colorAuto, colorAlways, colorNever}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		newPools(o), newPool(o), newMachines(o), newWho(o), newExplain(o), newCapacity(o), newPreview(o), newAudit(o),
		newWeb(o), newCheck(o), newReserve(o), newMigrate(o), newAdoptAdapter(o), newUninstall(o), newVersion(o),
	)
	return root
}
