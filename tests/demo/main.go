// Command demo plays the scenario that capv-static-ip was made for, on a real
// control plane with the real IPAM provider, and looks at every step whether it
// did what it says. Read scenario.go first.
//
//	make demo
//	make demo KEEP=1
//
// With KEEP set, everything runs on until it is interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"capv-static-ip.dev/tests/harness"
)

func main() {
	ctx, stop := harness.Lifetime()
	out := newPrinter(os.Stdout)
	err := run(ctx, out)
	stop()
	if err != nil {
		out.failure(err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out *printer) (err error) {
	s, err := start(ctx, out)
	if err != nil {
		return err
	}
	defer func() { err = s.end(ctx, err) }()
	began := time.Now()
	for n, step := range scenario() {
		out.heading(fmt.Sprintf("%d. %s", n+1, step.title))
		if err := step.play(ctx, s); err != nil {
			return fmt.Errorf("step %d, %s: %w", n+1, step.title, err)
		}
	}
	out.blank()
	out.good("Every step did what it says; the scenario took %s.", round(time.Since(began)))
	if keep := os.Getenv("KEEP"); keep == "" || keep == "0" {
		return nil
	}
	return s.keep(ctx)
}

// start starts everything that the scenario needs.
func start(ctx context.Context, out *printer) (_ *stage, err error) {
	out.heading("Starting a management cluster without containers")
	s := &stage{out: out}
	parts := []struct {
		title string
		start func() error
	}{
		{"etcd, kube-apiserver, kube-controller-manager, the APIs of CAPI, CAPV and metal3", func() (err error) {
			s.plane, err = harness.Start(ctx, harness.Options{Progress: out})
			return err
		}},
		{"the metal3 IP Address Manager", func() error {
			_, err := s.plane.StartMetal3(ctx, harness.Metal3Options{})
			return err
		}},
		{"what deploy/ installs: RBAC and the webhook configuration", func() (err error) {
			s.installation, err = s.plane.Install(ctx)
			return err
		}},
		{"capv-static-ip, two replicas", func() error { return s.startManagers(ctx, 2) }},
	}
	for _, part := range parts {
		done := out.begin(part.title)
		if err := part.start(); err != nil {
			return nil, s.end(ctx, fmt.Errorf("starting %s: %w", part.title, err))
		}
		done()
	}
	return s, nil
}

// end stops everything. What failed can be read about in the logs, so they stay.
func (s *stage) end(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		// What an interrupt broke on its way is of no interest.
		err = errors.New("interrupted")
	}
	if s.plane == nil {
		return err
	}
	return errors.Join(s.plane.KeepLogs(ctx, err), s.plane.Stop())
}

func (s *stage) startManagers(ctx context.Context, replicas int) error {
	for range replicas {
		manager, err := s.installation.StartManager(ctx, harness.ManagerOptions{})
		if err != nil {
			return err
		}
		s.managers = append(s.managers, manager)
	}
	return nil
}
