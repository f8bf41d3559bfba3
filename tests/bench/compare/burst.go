package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// bursts lets many clients make bare claims, and then machines, of each provider.
func (b *bench) bursts(ctx context.Context, count int, into *results) error {
	b.log.Begin(fmt.Sprintf("%d at once by %d clients", count, measure.Clients))
	claims := map[string]measure.Crowd{}
	for _, c := range contenders()[1:] {
		result := burst{contender: c, count: count}
		if _, done := claims[c.source.Name]; !done {
			err := b.inNamespace(ctx, c.source, func(ctx context.Context, ns string) (err error) {
				claims[c.source.Name], err = b.burstOfClaims(ctx, c.source, ns, count)
				return err
			})
			if err != nil {
				return fmt.Errorf("claims of %s: %w", c.source.Name, err)
			}
			b.log.Tick()
		}
		result.claims = claims[c.source.Name]
		if err := b.use(ctx, c); err != nil {
			return err
		}
		err := b.inNamespace(ctx, c.source, func(ctx context.Context, ns string) (err error) {
			result.machines, result.failed, err = b.burstOfMachines(ctx, c, ns, count)
			return err
		})
		if err != nil {
			return fmt.Errorf("machines of %s: %w", c.name, err)
		}
		b.log.Tick()
		into.bursts = append(into.bursts, result)
	}
	b.log.Done()
	return nil
}

// inNamespace measures in a namespace of its own, and leaves nothing in it.
func (b *bench) inNamespace(ctx context.Context, source measure.Source, do func(ctx context.Context, ns string) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ns, err := b.stack.Plane.CreateNamespace(ctx, "burst")
	if err != nil {
		return err
	}
	if err := b.stack.Create(ctx, harness.Cluster(ns, harness.DefaultCluster), b.pool(source, ns)); err != nil {
		return err
	}
	if err := do(ctx, ns); err != nil {
		return err
	}
	for _, kind := range []client.Object{&capvv1.VSphereMachine{}, source.Claim(ns, "all")} {
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

func (b *bench) burstOfClaims(ctx context.Context, source measure.Source, ns string, count int) (measure.Crowd, error) {
	claims, err := measure.NewWatch(ctx, b.stack.Plane.Client, source.Claims, ns)
	if err != nil {
		return measure.Crowd{}, err
	}
	return measure.AtOnce(ctx, b.names(count), func(ctx context.Context, name string) error {
		bound := claims.Expect(name, source.IsBound)
		if err := b.stack.Create(ctx, source.Claim(ns, name)); err != nil {
			return err
		}
		return bound(ctx)
	})
}

// burstOfMachines also returns how many creates failed, and were tried again.
func (b *bench) burstOfMachines(ctx context.Context, c contender, ns string, count int) (measure.Crowd, int64, error) {
	var failed atomic.Int64
	template := b.stack.Template(ns, "bench")
	took, err := measure.AtOnce(ctx, b.names(count), func(ctx context.Context, name string) error {
		tries, err := measure.Insist(ctx, b.stack.Plane.Client, harness.Clone(template, name, c.option), 1)
		failed.Add(tries)
		return err
	})
	return took, failed.Load(), err
}
