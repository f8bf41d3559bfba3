package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/reservation"
)

// settleTime is for how long a pool has to hand out nothing after addresses of it were reserved.
const settleTime = 3 * time.Second

// reserveFlags are those of reserve.
type reserveFlags struct {
	reason string
	planned
	vcenter, undo bool
	timeout       time.Duration
}

func newReserve(o *options) *cobra.Command {
	f := &reserveFlags{}
	cmd := &cobra.Command{
		Use: "reserve ([KIND/]POOL ADDRESS... | --vcenter)", Short: "Keep addresses from being handed out, until you decide",
		Long: "Keep addresses of a pool from being handed out, whoever claims, until you undo it.\n\n" +
			"It prints its plan, and does nothing without --yes. It may be run again at any point. The exit code is 1 if an address cannot be reserved, " +
			"or was given to somebody meanwhile.",
		Args: func(_ *cobra.Command, args []string) error { return f.misused(args) }, ValidArgsFunction: o.completePool,
		RunE: func(cmd *cobra.Command, args []string) error { return o.reserve(cmd.Context(), f, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.reason, "reason", "", "Why, for people. It stands in an annotation of the pool.")
	flags.BoolVar(&f.vcenter, "vcenter", false, "Reserve all that audit --vcenter finds and nobody holds.")
	flags.BoolVar(&f.undo, "undo", false, "Have the pool hand out these addresses again.")
	flags.DurationVar(&f.timeout, "timeout", time.Minute, "Time for which an IPAM provider is waited for, each time.")
	f.addTo(cmd)
	cmd.MarkFlagsMutuallyExclusive("vcenter", "undo")
	cmd.MarkFlagsMutuallyExclusive("vcenter", "reason")
	return cmd
}

// misused is the error for arguments that do not go together.
func (f *reserveFlags) misused(args []string) error {
	switch {
	case f.vcenter && len(args) > 0:
		return exit{exitUsage, errors.New("with --vcenter, pools and addresses are those that are found")}
	case !f.vcenter && len(args) < 2:
		return exit{exitUsage, errors.New("name a pool and addresses of it, or say --vcenter")}
	}
	return nil
}

func (o *options) reserve(ctx context.Context, f *reserveFlags, args []string) error {
	source, err := o.sourceHere()
	if err != nil {
		return err
	}
	items, unseen, err := o.planReservation(ctx, source, f, args)
	if err != nil {
		return err
	}
	if err := o.showReservations(items); err != nil {
		return err
	}
	blocked, open := sorted(items)
	for _, item := range blocked {
		fmt.Fprintf(o.streams.ErrOut, "stop: %s of %s %s\n", item.Address, item.Pool, oneLine(item.Obstacle))
	}
	switch {
	case len(blocked) > 0 && !f.vcenter:
		return exit{exitNo, errors.New("nothing was changed")}
	case len(open) > 0 && !f.yes:
		o.onlyPlanned()
	default:
		if err := o.runReservation(ctx, source, f, open); err != nil {
			return exit{exitNo, err}
		}
	}
	switch {
	case len(blocked) > 0:
		return exit{code: exitNo}
	case unseen:
		return exit{code: exitUnseen}
	}
	return nil
}

// sorted are those that cannot be done, and those that there is something to do for.
func sorted(items []reservation.Item) (blocked, open []reservation.Item) {
	for _, item := range items {
		switch {
		case item.Obstacle != "":
			blocked = append(blocked, item)
		case item.Writes != "":
			open = append(open, item)
		}
	}
	return blocked, open
}

// planReservation is what the arguments ask for. Unseen says that there may be more.
func (o *options) planReservation(ctx context.Context, source inventory.Source, f *reserveFlags, args []string) (items []reservation.Item, unseen bool, err error) {
	if f.vcenter {
		return o.planFound(ctx, source)
	}
	graph, err := o.readFrom(ctx, source)
	if err != nil {
		return nil, false, err
	}
	pool, err := poolNamed(graph, args[0])
	if err != nil {
		return nil, false, err
	}
	var wanted []reservation.Wanted
	for _, text := range args[1:] {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, false, exit{exitUsage, fmt.Errorf("%q is no address", text)}
		}
		wanted = append(wanted, reservation.Wanted{Pool: pool.PoolKey, Address: ip.Unmap(), Reason: f.reason})
	}
	if f.undo {
		return reservation.PlanUndo(graph, wanted), false, nil
	}
	return reservation.Plan(graph, wanted), false, nil
}

// planFound is to reserve what virtual machines in vCenter use and nobody holds.
func (o *options) planFound(ctx context.Context, source inventory.Source) (items []reservation.Item, unseen bool, err error) {
	if source.VCenters, err = vcenters(ctx, source.Client, source.Namespace); err != nil {
		return nil, false, err
	}
	report, err := source.Audit(ctx, inventory.OutsideLimits(), inventory.SecondLook, inventory.GuestInPool)
	if err != nil {
		return nil, false, exit{exitUnreachable, err}
	}
	for _, left := range report.LeftOut {
		fmt.Fprintln(o.streams.ErrOut, "warning:", oneLine(left.String()))
	}
	var wanted []reservation.Wanted
	for _, found := range report.Findings {
		wanted = append(wanted, reservation.Wanted{
			Pool: found.Pools[0], Address: found.Addresses[0],
			Reason: fmt.Sprintf("virtual machine %s answers with it, seen %s", found.Name, report.At.UTC().Format(time.DateOnly)),
		})
	}
	return reservation.Plan(report.Graph, wanted), len(report.LeftOut) > 0, nil
}

func (o *options) runReservation(ctx context.Context, source inventory.Source, f *reserveFlags, items []reservation.Item) error {
	r := &reservation.Reservation{Client: source.Client, Providers: source.Providers, Timeout: f.timeout, Settle: settleTime, Report: o.report}
	if f.undo {
		return r.Undo(ctx, items)
	}
	return r.Run(ctx, items)
}

// showReservations prints the plan.
func (o *options) showReservations(items []reservation.Item) error {
	l := &list{kind: "Reservation", columns: []column{{name: "POOL"}, {name: "ADDRESS"}, {name: "STATE"}, {name: "WRITES"}, {name: "REASON"}}}
	slices.SortStableFunc(items, func(a, b reservation.Item) int { return a.Address.Compare(b.Address) })
	for _, item := range items {
		l.add(&v1alpha1.Reservation{
			Metadata: meta(item.Pool.Namespace, item.Address.String()), Pool: item.Pool.KindName() + "/" + item.Pool.Name, Address: item.Address.String(),
			State: string(item.State), Writes: item.Writes, Reason: item.Reason, Obstacle: item.Obstacle,
		}, item.Pool.String(), item.Address.String(), string(item.State), orDash(item.Writes), orDash(oneLine(item.Reason)))
	}
	return o.show(l)
}
