package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// site is one namespace with a pool of one provider, and with machines that ask for its
// addresses.
type site struct {
	*bench
	source    measure.Source
	namespace string
	network   int
	pool      object
	template  *capvv1.VSphereMachineTemplate
	// claims and machines follow what happens in the namespace, until the site is left.
	claims, machines *measure.Watch
	leave            context.CancelFunc
}

const (
	// firstNetwork is that of the first site's pool, 10.16.0.0/16: machines anywhere on the
	// control plane must not have the same address.
	firstNetwork = 16
	// fillers is how many clients fill a pool.
	fillers = 16
)

func (b *bench) newSite(ctx context.Context, source measure.Source) (*site, error) {
	namespace, err := b.plane.CreateNamespace(ctx, "bench")
	if err != nil {
		return nil, err
	}
	b.networks++
	ctx, leave := context.WithCancel(ctx)
	s := &site{
		bench: b, source: source, namespace: namespace, network: b.networks, leave: leave,
		pool: source.Pool(namespace, b.networks), template: harness.Template(namespace, "static"),
	}
	source.Ask(s.template)
	if err := createAll(ctx, b.client, harness.Cluster(namespace, harness.DefaultCluster), s.template, s.pool); err != nil {
		return nil, err
	}
	if s.claims, err = measure.NewWatch(ctx, b.client, source.Claims, namespace); err != nil {
		return nil, err
	}
	b.entered = append(b.entered, s)
	s.machines, err = measure.NewWatch(ctx, b.client, &capvv1.VSphereMachineList{}, namespace)
	return s, err
}

// leaveAll lets nobody follow any more what happens anywhere: the API server stops.
func (b *bench) leaveAll() {
	for _, s := range b.entered {
		s.leave()
	}
}

func createAll(ctx context.Context, c client.Client, objects ...object) error {
	for _, o := range objects {
		if err := c.Create(ctx, o); err != nil {
			return fmt.Errorf("creating %s: %w", o.GetName(), err)
		}
	}
	return nil
}

// sample makes one thing of a new name, and returns how long that took.
type sample struct {
	kind string
	// make returns when the thing is there.
	make func(ctx context.Context, name string) error
	// remove returns when it is gone, with all that belongs to it.
	remove func(ctx context.Context, name string) error
}

// claim is a bare claim until its provider has bound it.
func (s *site) claim() sample {
	return sample{
		kind: "claim",
		make: func(ctx context.Context, name string) error {
			bound := s.claims.Expect(name, s.source.IsBound)
			if err := s.client.Create(ctx, s.source.Claim(s.namespace, name)); err != nil {
				return fmt.Errorf("making a claim: %w", err)
			}
			return bound(ctx)
		},
		remove: func(ctx context.Context, name string) error {
			gone := s.claims.Expect(name, isDeleted)
			if err := s.client.Delete(ctx, s.source.Claim(s.namespace, name)); err != nil {
				return fmt.Errorf("deleting a claim: %w", err)
			}
			return gone(ctx)
		},
	}
}

func isDeleted(event watch.Event) bool { return event.Type == watch.Deleted }

// injected is a machine that is stored with an address of the pool.
func (s *site) injected() sample { return s.asking("static", 1) }

// asking is a machine that is stored with so many addresses.
func (s *site) asking(kind string, count int, options ...harness.Option) sample {
	return sample{
		kind: kind,
		make: func(ctx context.Context, name string) error {
			failed, err := measure.Insist(ctx, s.client, harness.Clone(s.template, name, options...), count)
			s.failed.Add(failed)
			return err
		},
		remove: func(ctx context.Context, name string) error {
			gone := s.machines.Expect(name, isDeleted)
			if err := s.client.Delete(ctx, harness.Machine(s.namespace, name)); err != nil {
				return fmt.Errorf("deleting a machine: %w", err)
			}
			if err := gone(ctx); err != nil {
				return err
			}
			return s.released(ctx, ipam.ClaimName(name, ipam.Slot{Nth: count - 1}))
		},
	}
}

// released waits until a claim is gone, if it ever was there, and so its address is free.
func (s *site) released(ctx context.Context, name string) error {
	gone := s.claims.Expect(name, isDeleted)
	claim := s.source.Claim(s.namespace, name)
	err := s.client.Get(ctx, client.ObjectKeyFromObject(claim), claim)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading a claim: %w", err)
	}
	return gone(ctx)
}

// untouched is a machine for which nobody asks us.
func (s *site) untouched(kind string, options ...harness.Option) sample {
	return sample{
		kind: kind,
		make: func(ctx context.Context, name string) error {
			machine := harness.Clone(s.template, name, options...)
			if err := s.client.Create(ctx, machine); err != nil {
				return fmt.Errorf("creating a machine: %w", err)
			}
			if len(harness.Addresses(machine)) != 0 {
				return fmt.Errorf("creating a machine: it has addresses %v, want none", harness.Addresses(machine))
			}
			return nil
		},
		remove: func(ctx context.Context, name string) error {
			if err := s.client.Delete(ctx, harness.Machine(s.namespace, name)); err != nil {
				return fmt.Errorf("deleting a machine: %w", err)
			}
			return nil
		},
	}
}

func removeAll(ctx context.Context, kind sample, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	removals, ctx := errgroup.WithContext(ctx)
	removals.SetLimit(measure.Clients)
	for _, name := range names {
		removals.Go(func() error { return kind.remove(ctx, name) })
	}
	return removals.Wait()
}

// provider is the program that serves the site's pool.
func (s *site) provider() *harness.Provider {
	if s.source.Name == measure.Metal3().Name {
		return s.metal3.Provider
	}
	return s.inCluster.Provider
}

// withoutProvider writes what the provider would have written, or would keep: it is stopped
// meanwhile, and nobody asks its webhooks.
func (s *site) withoutProvider(ctx context.Context, do func() error) error {
	provider := s.provider()
	if err := provider.Stop(); err != nil {
		return err
	}
	if err := provider.RemoveWebhooks(ctx); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := provider.Start(ctx); err != nil {
		return err
	}
	return provider.InstallWebhooks(ctx)
}

// wipe takes all of the site away, without waiting for those who would free its addresses one
// by one: no manager runs, and the provider does not see it.
func (s *site) wipe(ctx context.Context) error {
	s.leave()
	return s.withoutProvider(ctx, func() error {
		for _, kind := range []client.ObjectList{&capvv1.VSphereMachineList{}, s.source.Claims, s.source.Addresses} {
			if err := s.wipeAll(ctx, kind.DeepCopyObject().(client.ObjectList)); err != nil {
				return fmt.Errorf("removing what was measured: %w", err)
			}
		}
		return nil
	})
}

func (s *site) wipeAll(ctx context.Context, list client.ObjectList) error {
	if err := s.client.List(ctx, list, client.InNamespace(s.namespace)); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	err := meta.EachListItem(list, func(item runtime.Object) error {
		group.Go(func() error { return s.wipeOne(ctx, item.(object)) })
		return nil
	})
	return errors.Join(err, group.Wait())
}

func (s *site) wipeOne(ctx context.Context, o object) error {
	if len(o.GetFinalizers()) > 0 {
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		if err := s.client.Patch(ctx, o, patch); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	return client.IgnoreNotFound(s.client.Delete(ctx, o))
}
