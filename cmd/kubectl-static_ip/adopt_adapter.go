package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/adoption"
)

// adoptFlags are those of adopt-adapter.
type adoptFlags struct {
	planned
	adapter            string
	keep, ownerStopped bool
	timeout            time.Duration
}

func newAdoptAdapter(o *options) *cobra.Command {
	f := &adoptFlags{}
	cmd := &cobra.Command{
		Use: "adopt-adapter", Short: "Change over from the static IP adapter",
		Long: "Change over from the static IP adapter: what has to be changed first, what is adopted, what waits, and when the adapter can go.\n\n" +
			"It prints its plan, and does nothing without --yes. It may be stopped and run again at any point. " +
			"The exit code is 1 if something stands against it, or it was not finished in time.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.adoptAdapter(cmd.Context(), f) },
	}
	f.addTo(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.adapter, "adapter", "", "A Deployment of the adapter, as NAMESPACE/NAME, if it is not called capv-static-ip-controller-manager.")
	flags.BoolVar(&f.keep, "keep-adapter", false, "Leave the adapter there, stopped.")
	flags.BoolVar(&f.ownerStopped, "owner-stopped", false, "Who installed the adapter (Helm, Argo CD, Flux and so on) does not start it again.")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "Time for which each step waits.")
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("adapter", o.completeDeployment)
	return cmd
}

func (o *options) adoptAdapter(ctx context.Context, f *adoptFlags) error {
	a, err := o.adoption(f)
	if err != nil {
		return err
	}
	plan, err := a.Plan(ctx)
	if err != nil {
		return exit{exitUnseen, fmt.Errorf("planning the change: %w", err)}
	}
	if err := o.showPlan(plan); err != nil {
		return err
	}
	o.showNotes(plan)
	switch {
	case o.stopped(plan):
		return exit{exitNo, errors.New("nothing was changed")}
	case !f.yes:
		o.onlyPlanned()
		return nil
	}
	if err := a.Run(ctx, plan); err != nil {
		return exit{exitNo, fmt.Errorf("not finished, and may be run again: %w", err)}
	}
	if f.keep {
		fmt.Fprintln(o.streams.ErrOut, "The adapter is stopped, and can be deleted: run this again without --keep-adapter. Do not delete it by its manifest.")
		return nil
	}
	fmt.Fprintln(o.streams.ErrOut, "The adapter is gone.")
	return nil
}

func (o *options) adoption(f *adoptFlags) (*adoption.Adoption, error) {
	c, err := o.connect(nil)
	if err != nil {
		return nil, err
	}
	a := &adoption.Adoption{
		Client: c, Source: sourceOf(c, ""), Timeout: f.timeout, Keep: f.keep, OwnerStopped: f.ownerStopped, Report: o.report,
	}
	if f.adapter == "" {
		return a, nil
	}
	namespace, name, ok := strings.Cut(f.adapter, "/")
	if !ok || namespace == "" || name == "" {
		return nil, exit{exitUsage, fmt.Errorf("--adapter %q is not NAMESPACE/NAME", f.adapter)}
	}
	a.Adapter = types.NamespacedName{Namespace: namespace, Name: name}
	return a, nil
}
