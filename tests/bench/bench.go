package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

type object = client.Object

// bench is one control plane with the providers, on which managers take turns.
type bench struct {
	plane        *harness.ControlPlane
	client       client.WithWatch
	installation *harness.Installation
	metal3       *harness.Metal3
	inCluster    *harness.InCluster
	log          *measure.Progress
	// entered are the sites that there are.
	entered []*site
	// made counts what was made, so that every name is new, and networks those of pools.
	made, networks int
	// failed counts the creates that failed for want of time and were tried again.
	failed atomic.Int64
}

// patience is how long anything may take that is waited for.
const patience = 10 * time.Minute

// startBench starts a control plane with metal3 and what deploy/ brings, without a manager.
func startBench(ctx context.Context, log *measure.Progress) (*bench, error) {
	plane, err := harness.Start(ctx, harness.Options{Progress: log})
	if err != nil {
		return nil, err
	}
	b := &bench{plane: plane, client: plane.Client, log: log, networks: firstNetwork - 1}
	if b.metal3, err = plane.StartMetal3(ctx, harness.Metal3Options{}); err != nil {
		return nil, errors.Join(fmt.Errorf("starting metal3: %w", plane.KeepLogs(ctx, err)), plane.Stop())
	}
	if b.installation, err = plane.Install(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("installing: %w", plane.KeepLogs(ctx, err)), plane.Stop())
	}
	return b, nil
}

// name returns a new name. It does not end in a dash and a number, which would
// make a claim look like one of the old adapter's, and give us work with it.
func (b *bench) name(kind string) string {
	b.made++
	return fmt.Sprintf("%s%d", kind, b.made)
}

func (b *bench) names(kind string, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = b.name(kind)
	}
	return names
}

// once takes one sample, and leaves what it made.
func (b *bench) once(ctx context.Context, s sample) (name string, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	name = b.name(s.kind)
	start := time.Now()
	err = s.make(ctx, name)
	return name, time.Since(start), err
}

// pace is how samples follow each other.
type pace struct {
	count int
	// pause is for what goes on after a sample.
	pause time.Duration
	// keep is how much of what was made may be there before it is removed.
	keep int
}

// quiet is a pause for what goes on after a measurement: metal3 looks at the
// whole pool some more times, and that takes the longer the more is in it.
func quiet(bindings int) time.Duration {
	return 50*time.Millisecond + time.Duration(bindings)*100*time.Microsecond
}

// inTurn takes samples of several kinds, one of each after the other, with
// nothing else going on.
func (b *bench) inTurn(ctx context.Context, p pace, kinds ...sample) ([]measure.Durations, error) {
	took := make([]measure.Durations, len(kinds))
	made := make([][]string, len(kinds))
	for n := range p.count {
		for k, kind := range kinds {
			time.Sleep(p.pause)
			name, d, err := b.once(ctx, kind)
			if err != nil {
				return nil, err
			}
			took[k], made[k] = append(took[k], d), append(made[k], name)
		}
		if n < p.count-1 && len(made[0]) < p.keep {
			continue
		}
		for k, kind := range kinds {
			time.Sleep(p.pause)
			if err := removeAll(ctx, kind, made[k]); err != nil {
				return nil, err
			}
			made[k] = nil
		}
	}
	return took, nil
}

// creates takes samples of what needs no provider, in the same way with and
// without us. The API server prepares new webhooks at the first requests, which
// do not count.
func (b *bench) creates(ctx context.Context, count int, kind sample, into *measure.Durations) error {
	time.Sleep(200 * time.Millisecond)
	for i := range warmUp + count {
		name, took, err := b.once(ctx, kind)
		if err != nil {
			return err
		}
		if err := kind.remove(ctx, name); err != nil {
			return err
		}
		if i >= warmUp {
			*into = append(*into, took)
		}
	}
	return nil
}

// uninstall takes the webhook away, and install brings it back. Both return
// when the API server goes by it. A manager has to run.
func (b *bench) uninstall(ctx context.Context, probe *site) error {
	if err := b.installation.RemoveWebhook(ctx); err != nil {
		return err
	}
	return harness.Eventually(ctx, harness.Soon, "the API server to forget the webhook", func(ctx context.Context) error {
		called, err := probe.isCalled(ctx)
		if err == nil && called {
			err = errors.New("a machine was denied by the webhook")
		}
		return err
	})
}

func (b *bench) install(ctx context.Context, probe *site) error {
	if err := b.installation.Apply(ctx); err != nil {
		return err
	}
	return harness.Eventually(ctx, harness.Soon, "the API server to call the webhook", func(ctx context.Context) error {
		called, err := probe.isCalled(ctx)
		if err == nil && !called {
			err = errors.New("a machine that asks for a missing pool was stored")
		}
		return err
	})
}

// isCalled tells whether the API server asks the webhook, which denies a machine
// that asks for a missing pool.
func (s *site) isCalled(ctx context.Context) (bool, error) {
	probe := harness.Machine(s.namespace, s.name("probe"), harness.WithPool("missing"))
	err := s.client.Create(ctx, probe)
	if apierrors.IsForbidden(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, s.client.Delete(ctx, probe)
}
