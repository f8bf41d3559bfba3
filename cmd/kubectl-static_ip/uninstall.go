package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

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
	if err := o.showPlan(&plan.Plan); err != nil {
		return err
	}
	switch {
	case o.stopped(&plan.Plan):
		return exit{exitNo, errors.New("nothing was changed")}
	case f.dryRun:
		return nil
	case !f.yes && !o.agreed():
		return exit{exitNo, errors.New("nothing was changed: nobody said yes")}
	}
	if err := r.Run(ctx, plan); err != nil {
		return exit{exitNo, fmt.Errorf("not finished, and may be run again: %w", err)}
	}
	o.showNotes(&plan.Plan)
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
		Report: o.report,
	}
	if f.keep {
		r.Mode = removal.Keep
	}
	return r, nil
}
