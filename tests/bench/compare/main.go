// Command compare measures capv-static-ip beside CAPV's own way to static
// addresses, addressesFromPools, on whole management clusters with a simulated
// vCenter. What is compared is measured in turns, in one run, on one machine.
//
//	make bench-stack
//	go run ./tests/bench/compare -quick
//
// A goal that is missed is reported and is no failure: the machine may be busy.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

func main() {
	measure.Main("bench-stack", "take some minutes: few machines, one burst", thorough().run, short().run)
}

// plan says how much is measured.
type plan struct {
	// sizes are the numbers of machines that are made in a row, as a MachineSet
	// makes them, and how often. Without Cluster API's rate limit it is once.
	sizes []size
	// bursts are the numbers of machines that many clients make.
	bursts []int
}

type size struct{ machines, rounds int }

func thorough() plan {
	return plan{sizes: []size{{3, 2}, {30, 1}}, bursts: []int{200, 1000}}
}

func short() plan {
	return plan{sizes: []size{{3, 1}}, bursts: []int{64}}
}

func (p plan) run(ctx context.Context, out, progress io.Writer) error {
	start := time.Now()
	results := &results{machine: measure.ThisMachine()}
	log := measure.NewProgress(progress)
	// What was measured before an error, or an interrupt, is of use as well.
	defer func() {
		results.print(out)
		fmt.Fprintf(out, "\nMeasured in %s.\n", time.Since(start).Round(time.Second))
	}()
	for _, limited := range []bool{true, false} {
		if err := onStack(ctx, p, limited, log, results); err != nil {
			return err
		}
	}
	return nil
}

// onStack measures on a stack of its own, with Cluster API's rate limit of one
// reconcile per object and second, or without. The bursts have no use for
// Cluster API, so they are measured once.
func onStack(ctx context.Context, p plan, limited bool, log *measure.Progress, into *results) (err error) {
	s, err := stack.Start(ctx, stack.Options{WithoutKubeadm: true, WithoutRateLimiting: !limited, Progress: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(s.Plane.KeepLogs(ctx, err), s.Stop()) }()
	b := &bench{stack: s, log: log, networks: firstNetwork - 1}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, size := range p.sizes {
		if !limited {
			size.rounds = 1
		}
		if err := b.provision(ctx, size, limited, into); err != nil {
			return fmt.Errorf("provisioning %d machines: %w", size.machines, err)
		}
	}
	if limited {
		return nil
	}
	for _, machines := range p.bursts {
		if err := b.bursts(ctx, machines, into); err != nil {
			return fmt.Errorf("making %d at once: %w", machines, err)
		}
	}
	return nil
}

// firstNetwork is that of the first pool, 10.16.0.0/16.
const firstNetwork = 16

// bench measures on one stack.
type bench struct {
	stack *stack.Stack
	log   *measure.Progress
	// made counts what was made, so that every name is new, and networks those of pools.
	made, networks int
	// replicas are those of the manager, by how they allocate; those that are used run.
	replicas map[string][]*harness.Manager
	used     string
}

// name returns a new name. It does not end in a dash and a number, which would
// make a claim look like one of the old adapter's, and give us work with it.
func (b *bench) name(kind string) string {
	b.made++
	return fmt.Sprintf("%s%dx", kind, b.made)
}

func (b *bench) names(count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = b.name("b")
	}
	return names
}
