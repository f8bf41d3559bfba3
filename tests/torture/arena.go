package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// workersPerArena share a namespace and its pools.
	workersPerArena = 4
	// poolSize is about what the workers of an arena want, and less at times.
	poolSize = 7
	// generations are the templates of each pool, between which workers roll.
	generations = 2
)

// source is one pool of an arena.
type source struct {
	of   harness.Fixture
	kind string
	name string
	// network is what its addresses begin with.
	network string
}

// ref is how a history names the pool.
func (s source) ref() string { return s.kind + "/" + s.name }

// object is the pool.
func (s source) object(namespace string, options ...harness.Option) client.Object {
	at := func(last int) string { return fmt.Sprintf("%s%d", s.network, last) }
	return s.of.Pool(namespace, append([]harness.Option{
		harness.WithPoolName(s.name), harness.WithRange(at(10), at(9+poolSize)), harness.WithGateway(at(1)), harness.WithNameservers(at(2)),
	}, options...)...)
}

// sources are the pools of a namespace whose number no other has.
func sources(number int) []source {
	return []source{
		{harness.OfMetal3, history.Metal3Pool, "metal3", fmt.Sprintf("10.%d.%d.", 100+number/250, number%250)},
		{harness.OfInCluster, history.InClusterPool, "in-cluster", fmt.Sprintf("10.%d.%d.", 150+number/250, number%250)},
	}
}

// arena is a namespace in which some workers play.
type arena struct {
	ns      string
	sources []source
}

// makeArenas makes as many as the workers need.
func (t *trial) makeArenas(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range (t.options.workers + workersPerArena - 1) / workersPerArena {
		a := &arena{ns: fmt.Sprintf("arena-%d", i), sources: sources(i)}
		t.arenas = append(t.arenas, a)
		group.Go(func() error { return t.makeArena(ctx, a) })
	}
	return group.Wait()
}

func (t *trial) makeArena(ctx context.Context, a *arena, options ...harness.Option) error {
	if err := t.stack.EnsureNamespace(ctx, a.ns); err != nil {
		return err
	}
	if err := t.stack.CreateCluster(ctx, a.ns, harness.DefaultCluster); err != nil {
		return err
	}
	for _, s := range a.sources {
		if err := t.stack.Create(ctx, s.object(a.ns, options...)); err != nil {
			return err
		}
		for g := range generations {
			if err := t.stack.Create(ctx, t.template(a, s, g)); err != nil {
				return err
			}
		}
	}
	return nil
}

// template is one that asks for a pool.
func (t *trial) template(a *arena, s source, generation int) *capvv1.VSphereMachineTemplate {
	return t.stack.Template(a.ns, fmt.Sprintf("%s-%d", s.name, generation), s.of.Ask(s.name))
}

// ask is what a machine wants: an address of one pool, or one of each for two devices.
func (a *arena) ask(by *rand.Rand) []source {
	if by.IntN(5) == 0 {
		return a.sources
	}
	return []source{a.sources[by.IntN(len(a.sources))]}
}

// refs are how a history names pools.
func refs(wanted []source) []string {
	var list []string
	for _, s := range wanted {
		list = append(list, s.ref())
	}
	return list
}

// asking makes a machine ask for addresses, and say so for the history.
func asking(wanted []source) harness.Option {
	return func(object client.Object) {
		harness.WithAnnotation(history.PoolsAnnotation, strings.Join(refs(wanted), ","))(object)
		if len(wanted) == 1 {
			wanted[0].of.Ask(wanted[0].name)(object)
			return
		}
		var devices []capvv1.NetworkDeviceSpec
		for i, s := range wanted {
			devices = append(devices, harness.StaticDevice())
			harness.WithAnnotation(fmt.Sprintf("pools.capv-static-ip.dev/%d", i), s.ref())(object)
		}
		harness.WithDevices(devices...)(object)
	}
}
