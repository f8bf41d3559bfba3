package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

var update = flag.Bool("update", false, "Write the reference anew.")

const reference = "../../docs/cli.md"

func TestReferenceIsThatOfTheCommands(t *testing.T) {
	// A default of kubectl's flags is in the home folder, or where this says.
	t.Setenv("HOME", "/home/you")
	t.Setenv("KUBECACHEDIR", "")
	root := newRoot("kubectl-static_ip", genericiooptions.NewTestIOStreamsDiscard())
	want := referenceOf(root)
	if *update {
		if err := os.WriteFile(reference, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, []byte(want)) {
		t.Errorf("%s is stale: run 'make generate'", reference)
	}
}

// referenceOf is a page with all commands, each as its own --help has it.
func referenceOf(root *cobra.Command) string {
	var page strings.Builder
	page.WriteString("# Commands of kubectl static-ip\n\n" +
		"For those who look a flag up. [kubectl static-ip](plugin.md) says what each command is for, and\n" +
		"what the exit codes mean. Made of the commands by `make generate`.\n")
	for _, cmd := range root.Commands() {
		if cmd.IsAvailableCommand() {
			section(&page, cmd)
		}
	}
	page.WriteString("\n## Flags of all commands\n\n")
	flagsOf(&page, root.PersistentFlags().FlagUsages())
	return page.String()
}

func section(page *strings.Builder, cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = !cmd.HasAvailableLocalFlags()
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(page, "\n## %s\n\n%s\n\n```\n%s\n```\n", cmd.Name(), text, cmd.UseLine())
	if flags := cmd.LocalNonPersistentFlags().FlagUsages(); flags != "" {
		page.WriteString("\n")
		flagsOf(page, flags)
	}
}

func flagsOf(page *strings.Builder, usages string) {
	fmt.Fprintf(page, "```\n%s```\n", usages)
}
