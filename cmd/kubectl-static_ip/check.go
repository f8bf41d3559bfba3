package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/installation"
)

func newCheck(o *options) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "check", Short: "Does the installation work",
		Long: "Does the installation work: from the Deployment to a machine that the API server asks about, in a dry run.\n\n" +
			"The exit code is 1 if something does not work, and 3 if not everything could be looked at.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings, err := o.check(cmd.Context(), wait)
			if err != nil {
				return err
			}
			return o.showFindings(findings)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "Look again for so long, until everything works.")
	return cmd
}

// check looks until nothing is wrong, or the time is over.
func (o *options) check(ctx context.Context, wait time.Duration) ([]installation.Finding, error) {
	const pause = time.Second
	checker, err := o.checker()
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(wait)
	for {
		findings, err := checker.Check(ctx)
		if time.Now().Add(pause).After(end) || ctx.Err() != nil {
			if err != nil {
				return nil, exit{exitUnreachable, fmt.Errorf("looking at the installation: %w", err)}
			}
			return findings, nil
		}
		if err == nil && worst(findings) == nil {
			return findings, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (o *options) checker() (installation.Checker, error) {
	c, err := o.connect(nil)
	if err != nil {
		return installation.Checker{}, err
	}
	namespace, _, err := o.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return installation.Checker{}, exit{exitUnreachable, err}
	}
	return installation.Checker{Client: c, Namespace: namespace, Version: version, Now: time.Now}, nil
}

func (o *options) showFindings(findings []installation.Finding) error {
	l := &list{kind: "Check", columns: []column{{name: "CHECK"}, {name: "STATE"}, {name: "FOUND"}}}
	for _, f := range findings {
		l.add(&v1alpha1.Check{Metadata: meta("", f.Check), State: string(f.State), Found: f.Found, Remedy: f.Remedy}, f.Check, painted{string(f.State), colourOfState(f.State)}, f.Found)
	}
	if err := o.show(l); err != nil {
		return err
	}
	if o.isTable() {
		for _, f := range findings {
			if f.Remedy != "" {
				fmt.Fprintf(o.streams.Out, "Now, for %s: %s\n", f.Check, f.Remedy)
			}
		}
	}
	return worst(findings)
}

func colourOfState(state installation.State) colour {
	switch state {
	case installation.OK:
		return green
	case installation.Failed:
		return red
	default:
		return yellow
	}
}

// worst is the error for the worst of the findings, nil if nothing is wrong. A warning is
// nothing that does not work.
func worst(findings []installation.Finding) error {
	var failed, unseen bool
	for _, f := range findings {
		failed = failed || f.State == installation.Failed
		unseen = unseen || f.State == installation.Unknown
	}
	switch {
	case failed:
		return exit{code: exitNo}
	case unseen:
		return exit{code: exitUnseen}
	default:
		return nil
	}
}

func newVersion(o *options) *cobra.Command {
	var clientOnly bool
	cmd := &cobra.Command{
		Use: "version", Short: "The versions of this program and of the manager", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items := []*v1alpha1.Version{{Metadata: meta("", "client"), Version: version}}
			var problem error
			if !clientOnly {
				var item *v1alpha1.Version
				if item, problem = o.managerVersion(cmd.Context()); item != nil {
					items = append(items, item)
				}
			}
			return errors.Join(o.showVersions(items), problem)
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "Do not look for the manager.")
	return cmd
}

// managerVersion is nil where it is not known, and the error says why.
func (o *options) managerVersion(ctx context.Context) (*v1alpha1.Version, error) {
	checker, err := o.checker()
	if err != nil {
		return nil, err
	}
	found, err := installation.Find(ctx, checker.Client)
	switch {
	case err != nil:
		return nil, exit{exitUnseen, fmt.Errorf("looking for the manager: %w", err)}
	case found.Deployment == nil:
		return nil, exit{exitNo, fmt.Errorf("there is no Deployment of the manager in namespace %q: it is not installed, or you may not see it", found.Namespace)}
	}
	return &v1alpha1.Version{
		Metadata: meta("", "manager"), Version: found.Version(), Image: found.Image(),
		Where: found.Deployment.Namespace + "/" + found.Deployment.Name, Skew: installation.Skew(version, found.Version()),
	}, nil
}

func (o *options) showVersions(items []*v1alpha1.Version) error {
	l := &list{kind: "Version", columns: []column{{name: "PROGRAM"}, {name: "VERSION"}, {name: "IMAGE", wide: true}, {name: "DEPLOYMENT", wide: true}}}
	for _, item := range items {
		l.add(item, item.Metadata.Name, orDash(item.Version), orDash(item.Image), orDash(item.Where))
		if item.Skew != "" {
			fmt.Fprintln(o.streams.ErrOut, "warning:", item.Skew)
		}
	}
	return o.show(l)
}
