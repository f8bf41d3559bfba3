package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// play is a journey that the lab plays, in place of its sample. Each has a file of its own,
// and a line in plays.
type play struct {
	// what it shows, in a line.
	what string
	// options say how its stack differs from the usual one.
	options stack.Options
	// act plays it, and fails where something is not as it says.
	act func(context.Context, *stage) error
}

// plays are those that PLAY can name.
func plays() map[string]play {
	return map[string]play{
		"adapter": adapterPlay(),
		"migrate": migratePlay(),
		"restore": restorePlay(),
	}
}

// playNamed is the play of this name, false for the lab without one.
func playNamed(name string) (play, bool, error) {
	if name == "" {
		return play{}, false, nil
	}
	all := plays()
	p, ok := all[name]
	if !ok {
		return play{}, false, fmt.Errorf("there is no play %q: PLAY can be %s", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	return p, true, nil
}

// stage is where a play is played: it prints what a user would see.
type stage struct {
	*stack.Stack
	// options are those of the stack.
	options stack.Options
	plugin  *plugin
	out     io.Writer
}

// replace loses the management cluster, and starts another one that is installed alike, with the
// same vCenter. It is for perform to stop that.
func (s *stage) replace(ctx context.Context) error {
	s.Lose()
	options := s.options
	options.VCenter = s.VCenter
	fmt.Fprintln(s.out, "\nAnother management cluster is installed as that was.")
	next, err := stack.Start(ctx, options)
	if err != nil {
		return err
	}
	plugin := *s.plugin
	plugin.kubeconfig = next.Plane.Kubeconfig
	s.Stack, s.plugin = next, &plugin
	return nil
}

// tell says what happens next.
func (s *stage) tell(format string, args ...any) {
	fmt.Fprintf(s.out, "\n# "+format+"\n", args...)
}

// static runs kubectl static-ip and shows what it prints. It has to exit with this code, and
// to say a word.
func (s *stage) static(ctx context.Context, code int, says string, args ...string) error {
	return s.show(s.plugin.command(ctx, args...), typed("static-ip", args), code, says)
}

// kubectl runs kubectl likewise.
func (s *stage) kubectl(ctx context.Context, args ...string) error {
	return s.show(s.plugin.anyCommand(ctx, args...), typed("", args), 0, "")
}

// typed is what a user types for a command of kubectl, or of a plugin.
func typed(plugin string, args []string) string {
	words := []string{"kubectl"}
	if plugin != "" {
		words = append(words, plugin)
	}
	for _, arg := range args {
		if strings.Contains(arg, " ") {
			arg = "'" + arg + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

func (s *stage) show(cmd *exec.Cmd, command string, code int, says string) error {
	fmt.Fprintf(s.out, "\n$ %s\n", command)
	var output strings.Builder
	cmd.Stdout = io.MultiWriter(s.out, &output)
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	var exited *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exited):
		return fmt.Errorf("%s: %w", command, err)
	case cmd.ProcessState.ExitCode() != code:
		return fmt.Errorf("%s exits with %d, want %d", command, cmd.ProcessState.ExitCode(), code)
	case !strings.Contains(output.String(), says):
		return fmt.Errorf("%s does not say %q", command, says)
	}
	return nil
}

// killed runs kubectl static-ip, shows what it prints, and kills it with -9 at a word.
func (s *stage) killed(ctx context.Context, word string, args ...string) error {
	command := typed("static-ip", args)
	fmt.Fprintf(s.out, "\n$ %s\n", command)
	cmd := s.plugin.command(ctx, args...)
	cmd.Stdout = s.out
	if err := harness.KilledAt(cmd, word, func(line string) { fmt.Fprintln(s.out, line) }); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	fmt.Fprintln(s.out, "Killed")
	return nil
}

// running is of each machine of some workers its spec, its VM, and how much has happened to that.
func (s *stage) running(ctx context.Context, all ...*clusterv1.MachineDeployment) (map[string]string, error) {
	events, err := s.VCenter.Events(ctx, 0)
	if err != nil {
		return nil, err
	}
	machines := map[string]string{}
	for _, workers := range all {
		nodes, err := s.Nodes(ctx, workers)
		if err != nil {
			return nil, err
		}
		for _, node := range nodes {
			spec, err := json.Marshal(node.Machine.Spec)
			if err != nil {
				return nil, err
			}
			happened := slices.DeleteFunc(slices.Clone(events), func(e stack.VMEvent) bool { return e.ID != node.VM.ID })
			machines[node.Machine.Name] = fmt.Sprintf("%s\n%s\n%d events of its VM", spec, node.VM.ID, len(happened))
		}
	}
	return machines, nil
}

// areUntouched returns an error if a machine is not what it was, or an address was in two VMs.
func (s *stage) areUntouched(ctx context.Context, before, after map[string]string) error {
	for name, was := range before {
		if after[name] != was {
			return fmt.Errorf("machine %s was\n%s\nand is\n%s", name, was, after[name])
		}
	}
	events, err := s.VCenter.Events(ctx, 0)
	if err != nil {
		return err
	}
	return errors.Join(stack.SharedAddresses(events)...)
}
