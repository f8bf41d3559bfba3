package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/removal"
)

// uninstallFlags are those of uninstall.
type uninstallFlags struct {
	keep, drain, dryRun, yes, ownerStopped bool
	timeout                                time.Duration
}

func newUninstall(o *options) *cobra.Command {
	f := &uninstallFlags{}
	cmd := &cobra.Command{
		Use: "uninstall", Short: "Take capv-static-ip out of the cluster",
		Long: "Take capv-static-ip out of the cluster, step by step. It prints its plan and asks before it writes.\n\n" +
			"It may be stopped and run again at any point. The exit code is 1 if it was not allowed to go on, or was not finished in time.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.uninstall(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.drain, "drain", false, "Wait until no machine holds an address any more.")
	flags.BoolVar(&f.keep, "keep-machines", false, "Leave machines and their addresses as they are.")
	flags.BoolVar(&f.dryRun, "dry-run", false, "Print the plan, and do nothing.")
	flags.BoolVar(&f.yes, "yes", false, "Do not ask.")
	flags.BoolVar(&f.ownerStopped, "owner-stopped", false, "Who installed it (Helm, Argo CD, Flux and so on) does not bring it back.")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "Time for which each step waits.")
	cmd.MarkFlagsMutuallyExclusive("drain", "keep-machines")
	return cmd
}

func (o *options) uninstall(ctx context.Context, f *uninstallFlags) error {
	r, err := o.removal(f)
	if err != nil {
		return err
	}
	plan, err := r.Plan(ctx)
	if err != nil {
		return exit{exitUnseen, fmt.Errorf("planning the removal: %w", err)}
	}
	if !f.keep && !f.drain && plan.Holding > 0 {
		return exit{exitUsage, fmt.Errorf("%d machines and VSphereClusters hold addresses: say --drain to wait until they are gone, "+
			"or --keep-machines to leave them as they are", plan.Holding)}
	}
	if err := o.showPlan(plan); err != nil {
		return err
	}
	for _, stop := range plan.Stops {
		fmt.Fprintln(o.streams.ErrOut, "stop:", stop)
	}
	switch {
	case len(plan.Stops) > 0:
		return exit{exitNo, errors.New("nothing was changed")}
	case f.dryRun:
		return nil
	case !f.yes && !o.agreed():
		return exit{exitNo, errors.New("nothing was changed: nobody said yes")}
	}
	if err := r.Run(ctx, plan); err != nil {
		return exit{exitNo, fmt.Errorf("not finished, and may be run again: %w", err)}
	}
	for _, note := range plan.Notes {
		fmt.Fprintln(o.streams.ErrOut, "note:", note)
	}
	fmt.Fprintln(o.streams.ErrOut, "capv-static-ip is removed.")
	return nil
}

func (o *options) removal(f *uninstallFlags) (*removal.Removal, error) {
	// What the API server finishes by itself takes seconds.
	const settle = 10 * time.Second
	checker, err := o.checker()
	if err != nil {
		return nil, err
	}
	r := &removal.Removal{
		Client: checker.Client, Source: sourceOf(checker.Client, ""), Timeout: f.timeout, Settle: min(settle, f.timeout), OwnerStopped: f.ownerStopped,
		Report: func(format string, args ...any) { fmt.Fprintf(o.streams.ErrOut, format+"\n", args...) },
	}
	if f.keep {
		r.Mode = removal.Keep
	}
	return r, nil
}

// showPlan prints the steps with what there is to do for them now.
func (o *options) showPlan(plan *removal.Plan) error {
	l := &list{kind: "Step"}
	for _, step := range plan.Steps {
		l.add(&v1alpha1.Step{Metadata: meta("", step.Name), Does: step.Text, Objects: step.Objects})
	}
	if !o.isTable() {
		return o.show(l)
	}
	for i, step := range plan.Steps {
		fmt.Fprintf(o.streams.Out, "%d. %s (%s)\n", i+1, step.Text, step.Name)
		for _, object := range step.Objects {
			fmt.Fprintf(o.streams.Out, "     %s\n", object)
		}
		if len(step.Objects) == 0 {
			fmt.Fprintln(o.streams.Out, "     nothing to do")
		}
	}
	return nil
}

// agreed asks, and tells whether the answer was yes.
func (o *options) agreed() bool {
	fmt.Fprint(o.streams.ErrOut, "Do this? [y/N] ")
	answer, err := bufio.NewReader(o.streams.In).ReadString('\n')
	if err != nil {
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
