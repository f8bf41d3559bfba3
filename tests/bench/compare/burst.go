package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// crowd is the number of clients that create at once.
const crowd = 32

// provider is what a burst of machines is compared with: bare claims of the same
// IPAM provider.
type provider struct {
	contender
	kind    client.ObjectList
	claim   func(namespace, name string) client.Object
	isBound func(watch.Event) bool
}

func providers() []provider {
	all := contenders()
	return []provider{
		{
			contender: all[1], kind: &capiipamv1.IPAddressClaimList{},
			claim: func(namespace, name string) client.Object {
				return harness.AddressClaim(namespace, name, harness.InClusterPoolKind, harness.DefaultInClusterPool,
					harness.WithClaimCluster(harness.DefaultCluster))
			},
			isBound: func(event watch.Event) bool {
				return event.Object.(*capiipamv1.IPAddressClaim).Status.AddressRef.Name != ""
			},
		},
		{
			contender: all[2], kind: &ipamv1.IPClaimList{},
			claim: func(namespace, name string) client.Object {
				return harness.Claim(namespace, name, harness.DefaultPool)
			},
			isBound: func(event watch.Event) bool { return event.Object.(*ipamv1.IPClaim).Status.Address != nil },
		},
	}
}

func claimLists() []client.ObjectList {
	return []client.ObjectList{&ipamv1.IPClaimList{}, &capiipamv1.IPAddressClaimList{}}
}

// bursts lets many clients make bare claims, and then machines, of each provider.
func (b *bench) bursts(ctx context.Context, count int, into *results) error {
	b.log.Begin(fmt.Sprintf("%d at once by %d clients", count, crowd))
	for _, p := range providers() {
		result := burst{provider: p.name, count: count}
		var err error
		if err = b.inNamespace(ctx, p, func(ctx context.Context, ns string) error {
			result.claims, err = b.burstOfClaims(ctx, p, ns, count)
			return err
		}); err != nil {
			return fmt.Errorf("claims of %s: %w", p.name, err)
		}
		b.log.Tick()
		if err := b.inNamespace(ctx, p, func(ctx context.Context, ns string) error {
			result.machines, result.failed, err = b.burstOfMachines(ctx, p, ns, count)
			return err
		}); err != nil {
			return fmt.Errorf("machines of %s: %w", p.name, err)
		}
		b.log.Tick()
		into.bursts = append(into.bursts, result)
	}
	b.log.Done()
	return nil
}

// inNamespace measures in a namespace of its own, and leaves nothing in it.
func (b *bench) inNamespace(ctx context.Context, p provider, do func(ctx context.Context, ns string) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ns, err := b.stack.Plane.CreateNamespace(ctx, "burst")
	if err != nil {
		return err
	}
	if err := b.stack.Create(ctx, harness.Cluster(ns, harness.DefaultCluster), p.pool(ns)); err != nil {
		return err
	}
	if err := do(ctx, ns); err != nil {
		return err
	}
	for _, kind := range []client.Object{&capvv1.VSphereMachine{}, p.claim(ns, "all")} {
		// The API server ends a request after a minute, and with that begins anew.
		err := harness.Eventually(ctx, patience, fmt.Sprintf("each %T to be deleted", kind), func(ctx context.Context) error {
			return b.stack.Plane.Client.DeleteAllOf(ctx, kind, client.InNamespace(ns))
		})
		if err != nil {
			return err
		}
	}
	return b.awaitEmpty(ctx, ns)
}

func (b *bench) burstOfClaims(ctx context.Context, p provider, ns string, count int) (measure.Crowd, error) {
	claims, err := measure.NewWatch(ctx, b.stack.Plane.Client, p.kind, ns)
	if err != nil {
		return measure.Crowd{}, err
	}
	return b.atOnce(ctx, count, func(ctx context.Context, name string) error {
		bound := claims.Expect(name, p.isBound)
		if err := b.stack.Create(ctx, p.claim(ns, name)); err != nil {
			return err
		}
		return bound(ctx)
	})
}

// retryAfter is the pause after a failure, which is Cluster API's first one.
const retryAfter = time.Second

// burstOfMachines also returns how many creates failed, and were tried again.
func (b *bench) burstOfMachines(ctx context.Context, p provider, ns string, count int) (measure.Crowd, int64, error) {
	var failed atomic.Int64
	template := b.stack.Template(ns, "bench")
	took, err := b.atOnce(ctx, count, func(ctx context.Context, name string) error {
		for {
			machine := harness.Clone(template, name, p.options...)
			err := b.stack.Plane.Client.Create(ctx, machine)
			switch {
			case err == nil && len(harness.Addresses(machine)) != 1:
				return fmt.Errorf("machine %s has addresses %v, want one", name, harness.Addresses(machine))
			case !apierrors.IsForbidden(err) && !apierrors.IsInternalError(err):
				return err
			}
			failed.Add(1)
			select {
			case <-ctx.Done():
				return err
			case <-time.After(retryAfter):
			}
		}
	})
	return took, failed.Load(), err
}

// atOnce lets many clients make things of new names.
func (b *bench) atOnce(ctx context.Context, count int, create func(context.Context, string) error) (measure.Crowd, error) {
	names := make([]string, count)
	for i := range names {
		names[i] = b.name("b")
	}
	took := make(measure.Durations, count)
	clients, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for c := range crowd {
		clients.Go(func() error {
			for i := c; i < count; i += crowd {
				begin := time.Now()
				if err := create(ctx, names[i]); err != nil {
					return err
				}
				took[i] = time.Since(begin)
			}
			return nil
		})
	}
	err := clients.Wait()
	return measure.Crowd{Durations: took, Wall: time.Since(start)}, err
}
