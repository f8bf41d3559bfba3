package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// workersPerArena share a namespace and its pools.
	workersPerArena = 4
	// poolSize is about what the workers of an arena want, and less at times; coolPoolSize
	// is that of a pool whose addresses cool down.
	poolSize, coolPoolSize = 7, 9
	// generations are the templates of each pool, between which workers roll.
	generations = 2
)

// coolDown is for how long addresses of some pools cool down. It is short: the pools are
// nearly full.
const coolDown = 10 * time.Second

// flavour is what is special about the pools of an arena.
type flavour struct {
	// v6 has them of the newer family, and cool for how long addresses are kept.
	v6   bool
	cool time.Duration
}

// plain pools are of the older family, and give an address again at once.
var plain = flavour{}

// flavours are those of the arenas, in turns: two of them have all.
var flavours = []flavour{plain, {v6: true, cool: coolDown}, {v6: true}, {cool: coolDown}}

// source is one pool of an arena.
type source struct {
	flavour
	of   harness.Fixture
	kind string
	name string
	// network is what its addresses begin with, and count how many there are.
	network string
	count   int
}

// ref is how a history names the pool.
func (s source) ref() string { return s.kind + "/" + s.name }

// object is the pool.
func (s source) object(namespace string, options ...harness.Option) client.Object {
	at := func(last int) string { return fmt.Sprintf("%s%d", s.network, last) }
	all := []harness.Option{
		harness.WithPoolName(s.name), harness.WithRange(at(10), at(9+s.count)), harness.WithGateway(at(1)), harness.WithNameservers(at(2)),
	}
	if s.v6 {
		all = append(all, harness.WithPrefix(64))
	}
	if s.cool > 0 {
		all = append(all, harness.WithAnnotation("capv-static-ip.dev/reuse-after", s.cool.String()))
	}
	return s.of.Pool(namespace, append(all, options...)...)
}

// sources are the pools of a namespace whose number no other has.
func sources(number int, f flavour) []source {
	network := func(base int) string {
		if f.v6 {
			return fmt.Sprintf("fd00:%d:%d::", base, number)
		}
		return fmt.Sprintf("10.%d.%d.", base+number/250, number%250)
	}
	count := poolSize
	if f.cool > 0 {
		count = coolPoolSize
	}
	return []source{
		{f, harness.OfMetal3, history.Metal3Pool, "metal3", network(100), count},
		{f, harness.OfInCluster, history.InClusterPool, "in-cluster", network(150), count},
	}
}

// arena is a namespace in which some workers play.
type arena struct {
	ns string
	// mu guards the sources, which change where machines are moved to other pools.
	mu      sync.Mutex
	sources []source
	// vips is for endpoints of control planes.
	vips source
}

// offered are the pools that are asked for addresses.
func (a *arena) offered() []source {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sources
}

// offer has these pools be asked in place of others.
func (a *arena) offer(pools ...source) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sources = pools
}

// size is how many addresses a pool of it has.
func (a *arena) size(ref string) int {
	for _, s := range append(slices.Clone(a.offered()), a.vips) {
		if s.ref() == ref {
			return s.count
		}
	}
	return 0
}

// makeArenas makes as many as the workers need.
func (t *trial) makeArenas(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range (t.options.workers + workersPerArena - 1) / workersPerArena {
		a := &arena{ns: fmt.Sprintf("arena-%d", i), sources: sources(i, flavours[i%len(flavours)]), vips: vips(i)}
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
	if a.vips.count > 0 {
		if err := t.stack.Create(ctx, a.vips.object(a.ns)); err != nil {
			return err
		}
	}
	for _, s := range a.offered() {
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
	all := a.offered()
	if by.IntN(5) == 0 {
		return all
	}
	return []source{one(by, all)}
}

// one of several.
func one[T any](by *rand.Rand, of []T) T { return of[by.IntN(len(of))] }

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
