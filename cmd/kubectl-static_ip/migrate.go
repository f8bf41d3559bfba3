package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/migration"
)

// Limits of what a migration asks of the API server: for each machine some thirty requests.
const (
	migrationQPS   = 200
	migrationBurst = 400
)

// migrateFlags are those of migrate.
type migrateFlags struct {
	planned
	from, to         string
	abort, templates bool
	parallel         int
	timeout          time.Duration
	// gone says that the old pool was deleted before the migration was finished.
	gone bool
}

func newMigrate(o *options) *cobra.Command {
	f := &migrateFlags{}
	cmd := &cobra.Command{
		Use: "migrate --from KIND/NAME --to KIND/NAME", Short: "Move the addresses of machines to another pool",
		Long: "Move the addresses of machines to another pool. No address changes, and no machine is touched beside its annotations.\n\n" +
			"It prints its plan, and does nothing without --yes. It may be stopped and run again at any point. The exit code is 1 if something " +
			"keeps it from beginning, or if not all machines were moved.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.migrate(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "The pool that the machines have addresses of, as KIND/NAME.")
	flags.StringVar(&f.to, "to", "", "The pool that they are to have them of, as KIND/NAME. It has to exist.")
	flags.BoolVar(&f.abort, "abort", false, "Bring machines back that are half way, and have the old pool hand out addresses again.")
	flags.BoolVar(&f.templates, "templates", false, "Edit the templates that ask for the old pool, and what the new pool lacks of its annotations.")
	flags.IntVar(&f.parallel, "parallel", 1, "How many machines are moved at a time.")
	flags.DurationVar(&f.timeout, "timeout", time.Minute, "Time for which an IPAM provider is waited for, each time.")
	f.addTo(cmd)
	for _, name := range []string{"from", "to"} {
		// It fails only for a flag that does not exist.
		_ = cmd.MarkFlagRequired(name)
		_ = cmd.RegisterFlagCompletionFunc(name, o.completePool)
	}
	return cmd
}

func (o *options) migrate(ctx context.Context, f *migrateFlags) error {
	m, err := o.migration(ctx, f)
	if err != nil {
		return err
	}
	if f.gone {
		return o.finishMigration(ctx, m, f.yes)
	}
	look := m.Plan
	if f.abort {
		look = m.PlanBack
	}
	plan, err := look(ctx)
	if err != nil {
		return exit{exitUnseen, fmt.Errorf("planning the migration: %w", err)}
	}
	if err := o.showMigration(plan); err != nil {
		return err
	}
	for _, stop := range plan.Stops {
		fmt.Fprintln(o.streams.ErrOut, "stop:", oneLine(stop))
	}
	if f.abort && len(plan.Stops) == 0 && o.isTable() {
		fmt.Fprintf(o.streams.Out, "%s hands out addresses again, but for those that %s has\n", m.From, m.To)
	}
	switch {
	case len(plan.Stops) > 0:
		return exit{exitNo, errors.New("nothing was changed")}
	case !f.yes:
		o.onlyPlanned()
		return nil
	}
	run, finished := m.Run, "The addresses are moved."
	if f.abort {
		run, finished = m.Abort, "No machine is half way."
	}
	if err := run(ctx); err != nil {
		return exit{exitNo, fmt.Errorf("not finished, and may be run again: %w", err)}
	}
	fmt.Fprintln(o.streams.ErrOut, finished)
	return nil
}

// finishMigration ends one whose old pool was deleted.
func (o *options) finishMigration(ctx context.Context, m *migration.Migration, yes bool) error {
	fmt.Fprintf(o.streams.Out, "%s is gone: what %s keeps for it is given free\n", m.From, m.To)
	if !yes {
		o.onlyPlanned()
		return nil
	}
	if err := m.Finish(ctx); err != nil {
		return exit{exitNo, err}
	}
	return nil
}

// migration is what the flags ask for.
func (o *options) migration(ctx context.Context, f *migrateFlags) (*migration.Migration, error) {
	source, err := o.sourceHere()
	if err != nil {
		return nil, err
	}
	graph, err := o.readFrom(ctx, source)
	if err != nil {
		return nil, err
	}
	m := &migration.Migration{
		Parallel: f.parallel, Timeout: f.timeout, Templates: f.templates, Report: o.report,
	}
	to, err := poolNamed(graph, f.to)
	if err != nil {
		return nil, err
	}
	m.To = to.PoolKey
	if m.From, f.gone = migration.GoneBefore(graph, source.Namespace, f.from, to); !f.gone {
		from, err := poolNamed(graph, f.from)
		if err != nil {
			return nil, err
		}
		m.From = from.PoolKey
	}
	if m.Client, err = o.connectFast(migrationQPS, migrationBurst); err != nil {
		return nil, err
	}
	m.Source = sourceOf(m.Client, m.From.Namespace)
	return m, nil
}

// showMigration prints the machines, and what is to be edited.
func (o *options) showMigration(plan *migration.Plan) error {
	l := &list{kind: "Move", columns: []column{{name: "MACHINE"}, {name: "STATE"}, {name: "CLAIM"}, {name: "WRITES"}, {name: "OBSTACLE"}}}
	for _, machine := range plan.Machines {
		for i, move := range machine.Moves {
			writes := "-"
			if i < len(machine.Writes) {
				writes = machine.Writes[i]
			}
			l.add(&v1alpha1.Move{
				Metadata: meta(machine.Key.Namespace, machine.Key.Name), State: string(machine.State), Address: move.Address.String(),
				From: move.From.Claim, To: move.To.Claim, Pool: move.To.Pool.Kind + "/" + move.To.Pool.Name, Obstacle: machine.Why,
			}, machine.Key.String(), string(machine.State), move.From.Claim, writes, orDash(machine.Why))
		}
	}
	if err := o.show(l); err != nil || !o.isTable() {
		return err
	}
	for _, text := range plan.Left {
		fmt.Fprintln(o.streams.Out, "stays:", oneLine(text))
	}
	for _, edit := range plan.Edits {
		how := "edit (--templates does it):"
		if edit.ByHand {
			how = "edit by hand:"
		}
		fmt.Fprintln(o.streams.Out, how, oneLine(edit.String()))
	}
	return nil
}
