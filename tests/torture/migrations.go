package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// migrationNetwork is the number of the network whose addresses are moved between pools.
	migrationNetwork = moverNetwork + 1
	// migratedPoolSize is more than the machines ever want.
	migratedPoolSize = 20
	// migrateFault is how a history names it.
	migrateFault = "migrate"
	// migrationTimeout is how long a migration may take, while everything else is broken.
	migrationTimeout = 6 * time.Minute
	// atRest is how long machines stay with a pool, at the least and at most.
	atRest, atRestAtMost = 5 * time.Second, 30 * time.Second
	// betweenMigrated is how long a worker waits at most whose machines are moved: they are
	// to live for long enough.
	betweenMigrated = 4 * time.Second
	// mostKills is how often a migration is killed at most.
	mostKills = 3
)

// migrant is a namespace whose machines get their addresses of another pool, again and again,
// by kubectl static-ip migrate, while workers make and delete some. All its pools have the
// same range, and one at a time is asked.
type migrant struct {
	*trial
	*arena
	rand    *rand.Rand
	program string
	workers []*worker
	// pools counts those that there were.
	pools int
	// lost is set when a migration failed: it may have left anything.
	lost bool
}

func (t *trial) newMigrant(ctx context.Context) (*migrant, error) {
	program, err := harness.BuildPlugin(ctx, t.stack.Plane.Root(), t.stack.Plane.Dir)
	if err != nil {
		return nil, err
	}
	m := &migrant{trial: t, arena: &arena{ns: "migrant"}, rand: t.random(1 << 34), program: program}
	m.offer(m.nextPool())
	if err := t.makeArena(ctx, m.arena); err != nil {
		return nil, err
	}
	for i := range 3 {
		w := &worker{trial: t, arena: m.arena, id: t.options.workers + i, client: t.stack.Plane.Client, rand: t.random(1<<34 + 1 + uint64(i)), pause: betweenMigrated}
		w.step = []func(context.Context){w.bare, w.withVM, w.deployment}[i]
		w.slots = w.newSlots(slotsWithVMs)
		m.workers = append(m.workers, w)
	}
	return m, nil
}

// nextPool is a pool that there was not yet, of any kind.
func (m *migrant) nextPool() source {
	s := sources(migrationNetwork, plain)[m.rand.IntN(2)]
	s.network, s.count = sources(migrationNetwork, plain)[0].network, migratedPoolSize
	m.pools++
	s.name = fmt.Sprintf("pool-%d", m.pools)
	return s
}

// run moves machines until the context ends, and ends when no migration is half way.
func (m *migrant) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, w := range m.workers {
		all.Go(func() { w.run(ctx) })
	}
	for !m.lost {
		wait(ctx, some(m.rand, atRest, atRestAtMost))
		if ctx.Err() != nil {
			return
		}
		from, to := m.offered()[0], m.nextPool()
		m.fault(migrateFault, from.ref()+" to "+to.ref(), func() error {
			op := history.Op{Worker: -1, Kind: history.Migrate, Namespace: m.ns, Name: from.ref() + " to " + to.ref()}
			err := m.record(ctx, migrationTimeout, op, func(ctx context.Context) error { return m.migrate(ctx, from, to) })
			m.lost = err != nil
			return err
		})
	}
}

// migrate moves all addresses, however often it is killed, and deletes the old pool, which
// goes if nobody has an address of it.
func (m *migrant) migrate(ctx context.Context, from, to source) error {
	if err := m.makePool(ctx, to); err != nil {
		return err
	}
	before, err := m.held(ctx)
	if err != nil {
		return err
	}
	if err := m.untilMoved(ctx, from, to); err != nil {
		return err
	}
	m.offer(to)
	if err := m.untilEmpty(ctx, from, to); err != nil {
		return err
	}
	after, err := m.held(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(before, func(uid types.UID, _ string) bool { _, lives := after[uid]; return !lives })
	for uid, addresses := range before {
		if after[uid] != addresses {
			return fmt.Errorf("machine %s had %s, and has %s", uid, addresses, after[uid])
		}
	}
	old := from.object(m.ns)
	err = m.eventually(ctx, "the old pool to be deleted", func(ctx context.Context) error {
		return client.IgnoreNotFound(m.stack.Plane.Client.Delete(ctx, old))
	})
	if err != nil {
		return err
	}
	return m.eventually(ctx, "the old pool to be gone", func(ctx context.Context) error {
		err := m.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(old), old)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("%s is there, with finalizers %v", from.ref(), old.GetFinalizers()))
	})
}

// eventually tries for as long as the context lasts.
func (m *migrant) eventually(ctx context.Context, what string, try func(context.Context) error) error {
	return harness.Eventually(ctx, migrationTimeout, what, try)
}

// makePool makes a pool and the templates that ask for it.
func (m *migrant) makePool(ctx context.Context, s source) error {
	objects := []client.Object{s.object(m.ns)}
	for g := range generations {
		objects = append(objects, m.template(m.arena, s, g))
	}
	for _, object := range objects {
		err := m.eventually(ctx, "a pool to be made", func(ctx context.Context) error {
			return client.IgnoreAlreadyExists(m.stack.Plane.Client.Create(ctx, object))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// held are the addresses of the machines, by their UIDs.
func (m *migrant) held(ctx context.Context) (held map[types.UID]string, err error) {
	err = m.eventually(ctx, "the machines to be listed", func(ctx context.Context) error {
		machines := &capvv1.VSphereMachineList{}
		if err := m.stack.Plane.Client.List(ctx, machines, client.InNamespace(m.ns)); err != nil {
			return err
		}
		held = map[types.UID]string{}
		for i := range machines.Items {
			if addresses := harness.Addresses(&machines.Items[i]); len(addresses) > 0 {
				held[machines.Items[i].UID] = fmt.Sprint(addresses)
			}
		}
		return nil
	})
	return held, err
}

// untilMoved runs the plugin until it says that all is moved. At first it is killed at times,
// and undone at times.
func (m *migrant) untilMoved(ctx context.Context, from, to source) error {
	args := []string{"migrate", "--namespace", m.ns, "--from", from.ref(), "--to", to.ref(), "--yes", "--timeout", "20s"}
	for range m.rand.IntN(mostKills + 1) {
		limited, cancel := context.WithTimeout(ctx, some(m.rand, 200*time.Millisecond, 4*time.Second))
		_ = m.plugin(limited, append(args, "--templates", "--parallel", fmt.Sprint(1+m.rand.IntN(4)))...)
		cancel()
		if m.rand.IntN(4) > 0 {
			continue
		}
		err := m.eventually(ctx, "a migration to be undone", func(ctx context.Context) error { return m.plugin(ctx, append(args, "--abort")...) })
		if err != nil {
			return err
		}
	}
	return m.eventually(ctx, "all addresses to be moved", func(ctx context.Context) error {
		return m.plugin(ctx, append(args, "--templates")...)
	})
}

// untilEmpty moves what was asked of the old pool until a moment ago. The in-cluster provider
// hands out again what has been freed there since it was closed.
func (m *migrant) untilEmpty(ctx context.Context, from, to source) error {
	return m.eventually(ctx, "the old pool to be empty", func(ctx context.Context) error {
		used, err := m.used(ctx, m.ns)
		if err == nil && used[from.ref()] > 0 {
			err = errors.Join(fmt.Errorf("%s has %d addresses", from.ref(), used[from.ref()]), m.untilMoved(ctx, from, to))
		}
		return err
	})
}

// plugin runs kubectl static-ip, and kills it with -9 at the end of the context.
func (m *migrant) plugin(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, m.program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.stack.Plane.Kubeconfig)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output[max(0, len(output)-2000):])
	}
	return nil
}
