package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// moverNetwork is the number of the networks of the Cluster that is moved.
	moverNetwork = 90
	// moveFault is how a history names it.
	moveFault = "move-cluster"
	// movedReplicas is how many machines of each pool are moved.
	movedReplicas = 2
	// moveTimeout is how long a move may take, with what comes before and after.
	moveTimeout = 4 * time.Minute
	// atHome is how long the Cluster stays where it is, at the least and at most.
	atHome, atHomeAtMost = 20 * time.Second, time.Minute
)

// mover is a Cluster with machines that is moved to another management cluster and back.
// That one has the same vCenter, and is not broken: what clusterctl leaves half done when
// the API server goes away is not ours.
type mover struct {
	*trial
	*arena
	away *stack.Stack
	rand *rand.Rand
	// lost is set when a move failed: nothing more can be done with the Cluster.
	lost bool
}

// newMover starts the other management cluster and makes the Cluster in the first one.
func (t *trial) newMover(ctx context.Context) (*mover, error) {
	away, err := stack.Start(ctx, stack.Options{
		VCenter: t.stack.VCenter, WithoutKubeadm: true, WithoutRateLimiting: true, Replicas: 1, Progress: os.Stderr,
		Manager: harness.ManagerOptions{OrphanGracePeriod: gracePeriod},
		Plane:   harness.Options{ControllerAccounts: true},
	})
	if err != nil {
		return nil, err
	}
	m := &mover{trial: t, arena: &arena{ns: history.MovedNamespace, sources: sources(moverNetwork, plain)}, away: away, rand: t.random(1 << 33)}
	if err := t.makeArena(ctx, m.arena, ofItsCluster); err != nil {
		return m, err
	}
	for _, s := range m.offered() {
		workers := stack.Workers(t.template(m.arena, s, 0), harness.DefaultCluster, "moved-"+s.name, movedReplicas)
		wanted := map[string]string{history.PoolsAnnotation: s.ref()}
		workers.Annotations, workers.Spec.Template.Annotations = wanted, wanted
		if err := t.stack.Create(ctx, workers); err != nil {
			return m, err
		}
	}
	return m, nil
}

// ofItsCluster makes a pool of metal3 one of the Cluster, with which it is moved.
func ofItsCluster(object client.Object) {
	if pool, ok := object.(*ipamv1.IPPool); ok {
		cluster := harness.DefaultCluster
		pool.Spec.ClusterName = &cluster
	}
}

// run moves the Cluster there and back until the context ends. It ends at home.
func (m *mover) run(ctx context.Context) {
	for !m.lost {
		wait(ctx, some(m.rand, atHome, atHomeAtMost))
		if ctx.Err() != nil {
			return
		}
		// Cluster API may make a machine too many while its API server comes and goes.
		if _, err := m.movable(ctx, m.stack); err != nil {
			fmt.Fprintln(m.log, "the Cluster is not moved:", err)
			continue
		}
		m.fault(moveFault, m.ns, func() error {
			return errors.Join(m.move(ctx, m.stack, m.away), m.move(ctx, m.away, m.stack))
		})
	}
}

// move moves the Cluster, and sees that the machines have the addresses that they had.
func (m *mover) move(ctx context.Context, from, to *stack.Stack) error {
	if m.lost {
		return nil
	}
	op := history.Op{Worker: -1, Kind: history.Move, Namespace: m.ns, Name: harness.DefaultCluster}
	err := m.record(ctx, mendTimeout+moveTimeout, op, func(ctx context.Context) error { return m.moveOnce(ctx, from, to) })
	m.lost = err != nil
	return err
}

func (m *mover) moveOnce(ctx context.Context, from, to *stack.Stack) error {
	before, output, err := m.moveAlone(ctx, from, to)
	if err != nil {
		return fmt.Errorf("%w: %s", err, output[max(0, len(output)-2000):])
	}
	return harness.Eventually(ctx, moveTimeout/2, "the moved machines to hold their addresses", func(ctx context.Context) error {
		after, err := m.held(ctx, to)
		if err == nil && !maps.Equal(before, after) {
			err = fmt.Errorf("the machines have %v, and had %v", after, before)
		}
		return err
	})
}

// moveAlone moves the Cluster while nothing is broken without which it cannot be, and returns
// what the machines held before.
func (m *mover) moveAlone(ctx context.Context, from, to *stack.Stack) (before map[string]string, output string, err error) {
	m.moving.Lock()
	defer m.moving.Unlock()
	// What is broken has been mended only now.
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	if before, err = m.movable(ctx, from); err != nil {
		return nil, "", err
	}
	output, err = from.Move(ctx, m.ns, to)
	return before, output, err
}

// movable waits until all machines are there and Ready, and returns what they hold.
func (m *mover) movable(ctx context.Context, from *stack.Stack) (held map[string]string, err error) {
	err = harness.Eventually(ctx, moveTimeout/2, "the machines to be movable", func(ctx context.Context) (err error) {
		held, err = m.held(ctx, from)
		return errors.Join(err, from.Joined(ctx, m.ns), m.initialize(ctx, from))
	})
	return held, err
}

// held are the addresses of the machines and of their VMs, which are the same, if the
// invariants hold.
func (m *mover) held(ctx context.Context, on *stack.Stack) (map[string]string, error) {
	held := map[string]string{}
	for _, s := range m.offered() {
		workers := &clusterv1.MachineDeployment{}
		workers.Namespace, workers.Name = m.ns, "moved-"+s.name
		nodes, err := on.Nodes(ctx, workers)
		if err != nil {
			return nil, err
		}
		if len(nodes) != movedReplicas {
			return nil, fmt.Errorf("%s has %d machines", workers.Name, len(nodes))
		}
		for _, node := range nodes {
			addresses := harness.Addresses(node.Machine)
			if !slices.Equal(addresses, node.VM.Addresses) || len(addresses) != 1 {
				return nil, fmt.Errorf("machine %s has %v, and its VM %v", node.Machine.Name, addresses, node.VM.Addresses)
			}
			held[node.Machine.Name] = strings.Join(addresses, ",") + " in VM " + node.VM.ID
		}
	}
	return held, errors.Join(harness.CheckInvariants(ctx, on.Plane.Client, harness.InvariantOptions{Namespaces: []string{m.ns}})...)
}

// initialize plays the control plane, which nobody has who could say that it is there: what
// a status says is not moved.
func (m *mover) initialize(ctx context.Context, on *stack.Stack) error {
	cluster := &clusterv1.Cluster{}
	if err := on.Plane.Client.Get(ctx, client.ObjectKey{Namespace: m.ns, Name: harness.DefaultCluster}, cluster); err != nil {
		return err
	}
	return on.Initialize(ctx, cluster)
}
