package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

type object = client.Object

// bench is one namespace with one pool, on one control plane.
type bench struct {
	client       client.WithWatch
	installation *harness.Installation
	namespace    string
	template     *capvv1.VSphereMachineTemplate
	claims       *measure.Watch
	log          *measure.Progress
	// made counts what was made, so that every name is new.
	made int
	// failed counts the creates that failed for want of time and were tried again.
	failed atomic.Int64
}

// patience is how long anything may take that is waited for.
const patience = 5 * time.Minute

// quiet is a pause for what goes on after a measurement: metal3 looks at the
// whole pool some more times, and that takes the longer the more is in it.
func quiet(bindings int) time.Duration {
	return 50*time.Millisecond + time.Duration(bindings)*100*time.Microsecond
}

// name returns a new name. It does not end in a dash and a number, which would
// make a claim look like one of the old adapter's, and give us work with it.
func (b *bench) name(kind string) string {
	b.made++
	return fmt.Sprintf("%s%d", kind, b.made)
}

// sample makes one thing of a new name, and returns how long that took.
type sample struct {
	kind string
	// make returns when the thing is there.
	make func(ctx context.Context, name string) error
	// remove returns when it is gone, with all that belongs to it.
	remove func(ctx context.Context, name string) error
}

// claim is a bare IPClaim until metal3 has bound it.
func (b *bench) claim() sample {
	return sample{
		kind: "claim",
		make: func(ctx context.Context, name string) error {
			bound := b.bound(name)
			if err := b.client.Create(ctx, harness.Claim(b.namespace, name, harness.DefaultPool)); err != nil {
				return fmt.Errorf("making a claim: %w", err)
			}
			return bound(ctx)
		},
		remove: func(ctx context.Context, name string) error {
			gone := b.gone(name)
			if err := b.client.Delete(ctx, harness.Claim(b.namespace, name, harness.DefaultPool)); err != nil {
				return fmt.Errorf("deleting a claim: %w", err)
			}
			return gone(ctx)
		},
	}
}

// injected is a machine that is stored with an address of the pool.
func (b *bench) injected() sample { return b.asking("static", 1) }

// two is a machine that is stored with two addresses of the pool, on one device.
func (b *bench) two() sample {
	return b.asking("two", 2, harness.WithAnnotation(firstDevice, harness.DefaultPool+","+harness.DefaultPool))
}

// chosen is a machine that is stored with an address of the pool because the one that it
// names first is full.
func (b *bench) chosen() sample {
	return b.asking("chosen", 1, harness.WithAnnotation(firstDevice, fullPool+"|"+harness.DefaultPool))
}

const (
	// firstDevice is the annotation that asks for the first device of a machine.
	firstDevice = ipam.PoolsAnnotationPrefix + "0"
	// fullPool is the name of a pool whose only address somebody has.
	fullPool = "full"
)

// asking is a machine that is stored with so many addresses.
func (b *bench) asking(kind string, count int, options ...harness.Option) sample {
	return sample{
		kind: kind,
		make: func(ctx context.Context, name string) error {
			machine := harness.Clone(b.template, name, options...)
			if err := b.insist(ctx, machine); err != nil {
				return fmt.Errorf("creating a machine: %w", err)
			}
			if len(harness.Addresses(machine)) != count {
				return fmt.Errorf("creating a machine: it has addresses %v, want %d", harness.Addresses(machine), count)
			}
			return nil
		},
		remove: func(ctx context.Context, name string) error {
			gone := b.gone(ipam.ClaimName(name, ipam.Slot{Nth: count - 1}))
			if err := b.client.Delete(ctx, harness.Machine(b.namespace, name)); err != nil {
				return fmt.Errorf("deleting a machine: %w", err)
			}
			return gone(ctx)
		},
	}
}

// retryAfter is the pause after a failure, which is Cluster API's first one.
const retryAfter = time.Second

// insist creates a machine, and tries again if that fails for want of time, as
// Cluster API does: where metal3 has more to do than it can while a request may
// take, it is denied, or the API server gives up on the webhook.
func (b *bench) insist(ctx context.Context, machine *capvv1.VSphereMachine) error {
	for {
		err := b.client.Create(ctx, machine)
		if !apierrors.IsForbidden(err) && !apierrors.IsInternalError(err) {
			return err
		}
		b.failed.Add(1)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryAfter):
		}
	}
}

// untouched is a machine for which nobody asks us.
func (b *bench) untouched(kind string, options ...harness.Option) sample {
	return sample{
		kind: kind,
		make: func(ctx context.Context, name string) error {
			machine := harness.Clone(b.template, name, options...)
			if err := b.client.Create(ctx, machine); err != nil {
				return fmt.Errorf("creating a machine: %w", err)
			}
			if len(harness.Addresses(machine)) != 0 {
				return fmt.Errorf("creating a machine: it has addresses %v, want none", harness.Addresses(machine))
			}
			return nil
		},
		remove: func(ctx context.Context, name string) error {
			if err := b.client.Delete(ctx, harness.Machine(b.namespace, name)); err != nil {
				return fmt.Errorf("deleting a machine: %w", err)
			}
			return nil
		},
	}
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

// inTurn takes samples of several kinds, one of each after the other, with
// nothing else going on. The pool holds this many bindings, and hardly more at
// any time: what was made is removed when it comes to a twentieth of them.
func (b *bench) inTurn(ctx context.Context, count, bindings int, kinds ...sample) ([]measure.Durations, error) {
	took := make([]measure.Durations, len(kinds))
	made := make([][]string, len(kinds))
	for n := range count {
		for k, kind := range kinds {
			time.Sleep(quiet(bindings))
			name, d, err := b.once(ctx, kind)
			if err != nil {
				return nil, err
			}
			took[k], made[k] = append(took[k], d), append(made[k], name)
		}
		if n < count-1 && len(made[0]) < bindings/20 {
			continue
		}
		for k, kind := range kinds {
			if err := b.removeAll(ctx, kind, made[k]); err != nil {
				return nil, err
			}
			made[k] = nil
		}
	}
	return took, nil
}

// atOnce lets many clients take samples, and removes all that they made.
func (b *bench) atOnce(ctx context.Context, perClient int, kind sample) (measure.Durations, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	names := make([]string, crowd*perClient)
	for i := range names {
		names[i] = b.name(kind.kind)
	}
	took := make(measure.Durations, len(names))
	clients, clientsCtx := errgroup.WithContext(ctx)
	start := time.Now()
	for c := range crowd {
		clients.Go(func() error {
			for i := c; i < len(names); i += crowd {
				begin := time.Now()
				if err := kind.make(clientsCtx, names[i]); err != nil {
					return err
				}
				took[i] = time.Since(begin)
			}
			return nil
		})
	}
	err := clients.Wait()
	wall := time.Since(start)
	if err != nil {
		return nil, 0, err
	}
	return took, wall, b.removeAll(ctx, kind, names)
}

func (b *bench) removeAll(ctx context.Context, kind sample, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	removals, ctx := errgroup.WithContext(ctx)
	removals.SetLimit(crowd)
	for _, name := range names {
		removals.Go(func() error { return kind.remove(ctx, name) })
	}
	return removals.Wait()
}

// uninstall takes the webhook away, and install brings it back. Both return
// when the API server goes by it.
func (b *bench) uninstall(ctx context.Context) error {
	if err := b.installation.RemoveWebhook(ctx); err != nil {
		return err
	}
	return harness.Eventually(ctx, harness.Soon, "the API server to forget the webhook", func(ctx context.Context) error {
		called, err := b.isCalled(ctx)
		if err == nil && called {
			err = errors.New("a machine was denied by the webhook")
		}
		return err
	})
}

func (b *bench) install(ctx context.Context) error {
	if err := b.installation.Apply(ctx); err != nil {
		return err
	}
	return harness.Eventually(ctx, harness.Soon, "the API server to call the webhook", func(ctx context.Context) error {
		called, err := b.isCalled(ctx)
		if err == nil && !called {
			err = errors.New("a machine that asks for a missing pool was stored")
		}
		return err
	})
}

// isCalled tells whether the API server asks the webhook, which denies a machine
// that asks for a missing pool.
func (b *bench) isCalled(ctx context.Context) (bool, error) {
	probe := harness.Machine(b.namespace, b.name("probe"), harness.WithPool("missing"))
	err := b.client.Create(ctx, probe)
	if apierrors.IsForbidden(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, b.client.Delete(ctx, probe)
}

// isEmpty checks that nothing is left of the measurements before, but for who has the
// address of the full pool.
func (b *bench) isEmpty(ctx context.Context) error {
	return harness.Eventually(ctx, harness.Soon, "everything to be removed", func(ctx context.Context) error {
		machines, claims, addresses := &capvv1.VSphereMachineList{}, &ipamv1.IPClaimList{}, &ipamv1.IPAddressList{}
		for _, list := range []client.ObjectList{machines, claims, addresses} {
			if err := b.client.List(ctx, list, client.InNamespace(b.namespace)); err != nil {
				return err
			}
		}
		if n := len(machines.Items) + len(claims.Items) + len(addresses.Items); n > 2 {
			return fmt.Errorf("%d machines, %d claims and %d addresses are left", len(machines.Items), len(claims.Items), len(addresses.Items))
		}
		return nil
	})
}
