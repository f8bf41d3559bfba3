package main

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// patience is how long anything may take that is waited for.
const patience = 10 * time.Minute

// provision makes machines in each contender's way, in turns.
func (b *bench) provision(ctx context.Context, size size, limited bool, into *results) error {
	b.log.Begin(fmt.Sprintf("%d machines in a row, rate limit %v: %d rounds of %d ways", size.machines, limited, size.rounds, len(contenders())))
	for range size.rounds {
		for _, c := range contenders() {
			if err := b.use(ctx, c); err != nil {
				return err
			}
			times, err := b.provisionOnce(ctx, c, size.machines)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			into.of(c.name, size.machines, limited).add(times)
			b.log.Tick()
		}
	}
	b.log.Done()
	return nil
}

// times are when what was waited for had happened, since each machine's create
// was sent.
type times struct {
	readable, metadata, ready measure.Durations
}

func (t *times) add(other times) {
	t.readable = append(t.readable, other.readable...)
	t.metadata = append(t.metadata, other.metadata...)
	t.ready = append(t.ready, other.ready...)
}

// awaited is one machine on its way.
type awaited struct {
	name            string
	sent            time.Time
	readable, ready func() (time.Time, error)
}

func (b *bench) provisionOnce(ctx context.Context, c contender, count int) (times, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ns, err := b.stack.Plane.CreateNamespace(ctx, "bench")
	if err != nil {
		return times{}, err
	}
	if err := b.stack.CreateCluster(ctx, ns, harness.DefaultCluster); err != nil {
		return times{}, err
	}
	if err := b.stack.Create(ctx, b.pool(c.source, ns)); err != nil {
		return times{}, err
	}
	machines, err := measure.NewWatch(ctx, b.stack.Plane.Client, &capvv1.VSphereMachineList{}, ns)
	if err != nil {
		return times{}, err
	}
	made, err := b.makeInARow(ctx, machines, b.stack.Template(ns, "bench"), c.option, count)
	if err != nil {
		return times{}, err
	}
	result, err := b.await(ctx, made)
	if err != nil {
		return times{}, err
	}
	return result, b.remove(ctx, ns)
}

// makeInARow makes machines as a MachineSet does: one after the other, first the
// VSphereMachine, and then the Machine.
func (b *bench) makeInARow(ctx context.Context, machines *measure.Watch, template *capvv1.VSphereMachineTemplate,
	option harness.Option, count int,
) ([]awaited, error) {
	var made []awaited
	for range count {
		name := b.name("m")
		one := awaited{
			name:     name,
			readable: stamped(ctx, machines.Expect(name, isReadable)),
			ready:    stamped(ctx, machines.Expect(name, isReady)),
			sent:     time.Now(),
		}
		if err := b.stack.Create(ctx, harness.Clone(template, name, option), stack.Machine(template.Namespace, harness.DefaultCluster, name)); err != nil {
			return nil, err
		}
		made = append(made, one)
	}
	return made, nil
}

// stamped notes when what is waited for happens, whoever asks how late.
func stamped(ctx context.Context, wait func(context.Context) error) func() (time.Time, error) {
	var at time.Time
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = wait(ctx)
		at = time.Now()
	}()
	return func() (time.Time, error) {
		<-done
		return at, err
	}
}

// isReadable tells whether the address can be read on the machine.
func isReadable(event watch.Event) bool {
	machine := event.Object.(*capvv1.VSphereMachine)
	return len(harness.Addresses(machine)) > 0 || len(machine.Status.Addresses) > 0
}

func isReady(event watch.Event) bool {
	return meta.IsStatusConditionTrue(event.Object.(*capvv1.VSphereMachine).Status.Conditions, clusterv1.ReadyCondition)
}

func (b *bench) await(ctx context.Context, made []awaited) (times, error) {
	var result times
	for _, m := range made {
		readable, err := m.readable()
		if err != nil {
			return times{}, fmt.Errorf("waiting for the address of %s: %w", m.name, err)
		}
		ready, err := m.ready()
		if err != nil {
			return times{}, fmt.Errorf("waiting for %s to be ready: %w", m.name, err)
		}
		result.readable = append(result.readable, readable.Sub(m.sent))
		result.ready = append(result.ready, ready.Sub(m.sent))
	}
	events, err := b.stack.VCenter.Events(ctx, 0)
	if err != nil {
		return times{}, err
	}
	configured := map[string]time.Time{}
	for _, event := range events {
		if _, known := configured[event.Name]; !known && event.Kind == stack.VMConfigured && len(event.Addresses) > 0 {
			configured[event.Name] = event.Time
		}
	}
	for _, m := range made {
		at, ok := configured[m.name]
		if !ok {
			return times{}, fmt.Errorf("the vCenter has no virtual machine %s with an address", m.name)
		}
		result.metadata = append(result.metadata, at.Sub(m.sent))
	}
	return result, nil
}

// remove removes all machines, so that the next measurement has the stack for
// itself.
func (b *bench) remove(ctx context.Context, ns string) error {
	if err := b.stack.Plane.Client.DeleteAllOf(ctx, &clusterv1.Machine{}, client.InNamespace(ns)); err != nil {
		return fmt.Errorf("removing the machines: %w", err)
	}
	return b.awaitEmpty(ctx, ns)
}

func (b *bench) awaitEmpty(ctx context.Context, ns string) error {
	kinds := []client.ObjectList{&capvv1.VSphereMachineList{}, measure.Metal3().Claims, measure.InCluster().Claims}
	return harness.Eventually(ctx, patience, "all machines and claims to go", func(ctx context.Context) error {
		for _, kind := range kinds {
			if err := b.stack.Plane.Client.List(ctx, kind, client.InNamespace(ns)); err != nil {
				return err
			}
			if left := meta.LenList(kind); left > 0 {
				return fmt.Errorf("%d left in %T", left, kind)
			}
		}
		return nil
	})
}
