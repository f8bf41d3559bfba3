package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

// auditFlags are the flags of audit alone.
type auditFlags struct {
	failOn  string
	checks  []string
	vcenter bool
}

func newAudit(o *options) *cobra.Command {
	var flags auditFlags
	cmd := &cobra.Command{
		Use: "audit", Short: "What is wrong, and what to do about it", Args: cobra.NoArgs,
		Long: "What is wrong, and what to do about it.\n\n" +
			"What looks wrong is looked at a second time two seconds later, and told only if it is still so. " +
			"The exit code is 1 if there is a finding of the severity of --fail-on, or worse.",
		RunE: func(cmd *cobra.Command, _ []string) error { return o.audit(cmd.Context(), flags) },
	}
	cmd.Flags().StringVar(&flags.failOn, "fail-on", string(inventory.Failing), "Exit with 1 if there is an error, or also if there is a warning.")
	cmd.Flags().StringSliceVar(&flags.checks, "checks", nil, "Make these checks only, as in SIP-001,SIP-006.")
	cmd.Flags().BoolVar(&flags.vcenter, "vcenter", false, vcenterUsage)
	return cmd
}

func (o *options) audit(ctx context.Context, flags auditFlags) error {
	if !slices.Contains([]string{string(inventory.Failing), string(inventory.Risky)}, flags.failOn) {
		return exit{exitUsage, fmt.Errorf("--fail-on %q is neither error nor warning", flags.failOn)}
	}
	only, err := checksNamed(flags.checks)
	if err != nil {
		return err
	}
	if slices.Contains(only, inventory.GuestInPool) && !flags.vcenter {
		return exit{exitUsage, fmt.Errorf("%s needs --vcenter", inventory.GuestInPool)}
	}
	source, err := o.sourceHere()
	if err != nil {
		return err
	}
	if flags.vcenter {
		if source.VCenters, err = vcenters(ctx, source.Client, source.Namespace); err != nil {
			return err
		}
	}
	began := time.Now()
	report, err := source.Audit(ctx, inventory.OutsideLimits(), inventory.SecondLook, only...)
	if err != nil {
		return exit{exitUnreachable, err}
	}
	if err := o.showReport(report, time.Since(began)); err != nil {
		return err
	}
	isFailure := func(f inventory.Finding) bool {
		return f.Severity == inventory.Failing || flags.failOn == string(inventory.Risky)
	}
	switch {
	case slices.ContainsFunc(report.Findings, isFailure):
		return exit{code: exitNo}
	case len(report.LeftOut) > 0:
		return exit{code: exitUnseen}
	}
	return nil
}

// checksNamed are the checks of these numbers.
func checksNamed(names []string) ([]inventory.CheckID, error) {
	var only []inventory.CheckID
	for _, name := range names {
		id := inventory.CheckID(strings.ToUpper(strings.TrimSpace(name)))
		if !slices.Contains(inventory.CheckIDs(), id) {
			return nil, exit{exitUsage, fmt.Errorf("there is no check %q: they are %s to %s", name, inventory.AddressTwice, inventory.GuestInPool)}
		}
		only = append(only, id)
	}
	return only, nil
}

func (o *options) showReport(report *inventory.Report, took time.Duration) error {
	l := &list{kind: "Finding", columns: []column{{name: "SEVERITY"}, {name: "CHECK"}, {name: "OBJECT"}, {name: "FINDING"}}}
	count := map[inventory.Severity]int{}
	for _, f := range report.Findings {
		count[f.Severity]++
		item := &v1alpha1.Finding{
			Metadata: meta(f.Namespace, f.Name), Severity: string(f.Severity), Check: string(f.Check), Object: f.Object, Finding: f.Text, Remedy: f.Remedy,
		}
		l.add(item, painted{item.Severity, colourOfSeverity(f.Severity)}, item.Check, item.Object, f.Text+": "+f.Remedy)
	}
	for _, unseen := range report.Unseen {
		fmt.Fprintln(o.streams.ErrOut, "warning:", unseen)
	}
	for _, left := range report.LeftOut {
		fmt.Fprintln(o.streams.ErrOut, "warning:", oneLine(left.String()))
	}
	if len(l.rows) > 0 || !o.isTable() {
		if err := o.show(l); err != nil {
			return err
		}
	}
	if o.isTable() && !o.noHeaders {
		seen := []string{plural(len(report.CAPIClusters), "cluster"), plural(len(report.Machines), "machine"), plural(len(report.Pools), "pool")}
		for _, v := range report.VCenters {
			seen = append(seen, plural(len(v.VirtualMachines)+len(v.Silent), "virtual machine")+" of "+v.Server)
		}
		fmt.Fprintf(o.streams.Out, "%s, %s in %s (%s)\n",
			plural(count[inventory.Failing], "error"), plural(count[inventory.Risky], "warning"), took.Round(100*time.Millisecond), strings.Join(seen, ", "))
	}
	return nil
}

func colourOfSeverity(severity inventory.Severity) colour {
	if severity == inventory.Failing {
		return red
	}
	return yellow
}

// plural is a number of things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if strings.HasSuffix(thing, "s") {
		thing += "e"
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
