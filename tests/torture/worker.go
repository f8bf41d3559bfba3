package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// slots is how many machines a worker has at most, of those without VMs and of those
	// with one.
	slots, slotsWithVMs = 4, 2
	// betweenOps is how long a worker waits at most before it does something else, and
	// betweenBare the same for one whose machines have no VMs, and so are quick.
	betweenOps, betweenBare = 700 * time.Millisecond, 300 * time.Millisecond
	// recreations is how often the name of a machine that goes is tried again.
	recreations = 10
)

// worker makes and deletes machines. What it does next is decided by the seed.
type worker struct {
	*trial
	*arena
	id     int
	rand   *rand.Rand
	client client.Client
	// step does one thing, and pause is how long is waited at most before the next.
	step  func(context.Context)
	pause time.Duration
	// slots are for machines, and planes for control planes.
	slots, planes []slot
}

// slot is a place for a machine of a worker.
type slot struct {
	name   string
	number int
	taken  bool
	// wanted is what the machine asks for, and given the name that the API server chose.
	wanted []source
	given  string
}

// newWorker is the worker of this number.
func (t *trial) newWorker(id int) *worker {
	w := &worker{
		trial: t, arena: t.arenas[id/workersPerArena], id: id, client: t.stack.Plane.Client,
		rand: t.random(uint64(id)), pause: betweenOps,
	}
	count := slots
	switch id % workersPerArena {
	case 0:
		w.step, w.pause = w.bare, betweenBare
	case 1:
		w.step, w.pause = w.forge, betweenBare
	case 2:
		w.step, count = w.withVM, slotsWithVMs
	default:
		w.step, count = w.groups, 0
		for i := range slotsForEndpoints {
			w.planes = append(w.planes, slot{name: fmt.Sprintf("cp%d-%d", id, i)})
		}
	}
	w.slots = w.newSlots(count)
	return w
}

// newSlots are this many, whose machines no other worker has.
func (w *worker) newSlots(count int) []slot {
	var all []slot
	for i := range count {
		all = append(all, slot{name: fmt.Sprintf("w%d-%d", w.id, i)})
	}
	return all
}

func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.step(ctx)
		wait(ctx, time.Duration(w.rand.Int64N(int64(w.pause))))
	}
}

// about is an operation on something of the arena.
func (w *worker) about(kind, name string) history.Op {
	return history.Op{Worker: w.id, Kind: kind, Namespace: w.ns, Name: name}
}

// bare makes, edits and deletes machines that no Machine owns, and that have no VMs.
func (w *worker) bare(ctx context.Context) {
	s := &w.slots[w.rand.IntN(len(w.slots))]
	if !s.taken {
		w.create(ctx, s)
		return
	}
	switch w.rand.IntN(8) {
	case 0, 1, 2:
		w.delete(ctx, s)
	case 3, 4:
		w.recreate(ctx, s)
	default:
		err := w.edit(ctx, &capvv1.VSphereMachine{}, s.machineName(), []edit{
			{"edit label", `{"metadata":{"labels":{"torture":"%d"}}}`},
			{"edit bindings", `{"metadata":{"annotations":{"capv-static-ip.dev/bindings":null,"torture":"%d"}}}`},
			{"edit finalizers", `{"metadata":{"finalizers":null,"annotations":{"torture":"%d"}}}`},
		})
		s.taken = !apierrors.IsNotFound(err)
	}
}

// create makes the machine of a slot, under its old name or a new one.
func (w *worker) create(ctx context.Context, s *slot) {
	if w.rand.IntN(2) == 0 {
		s.number++
	}
	s.wanted = w.ask(w.rand)
	s.taken = w.createAs(ctx, s.machineName(), s.wanted) != history.Refused
}

func (s *slot) machineName() string {
	if s.given != "" {
		return s.given
	}
	return fmt.Sprintf("%s-%d", s.name, s.number)
}

// createAs makes a machine. What may have been stored is taken to be.
func (w *worker) createAs(ctx context.Context, name string, wanted []source) history.Outcome {
	machine := harness.Machine(w.ns, name, asking(wanted))
	op := w.about(history.Create, name)
	op.Pools = refs(wanted)
	return outcomeOf(w.do(ctx, op, func(ctx context.Context) error { return w.client.Create(ctx, machine) }))
}

func (w *worker) delete(ctx context.Context, s *slot) {
	err := w.do(ctx, w.about("delete", s.machineName()), func(ctx context.Context) error {
		return client.IgnoreNotFound(w.client.Delete(ctx, harness.Machine(w.ns, s.machineName()), w.propagation()))
	})
	s.taken = err != nil
}

// propagation is one of the ways to delete.
func (w *worker) propagation() client.PropagationPolicy {
	ways := []metav1.DeletionPropagation{
		metav1.DeletePropagationBackground, metav1.DeletePropagationBackground, metav1.DeletePropagationForeground,
	}
	return client.PropagationPolicy(one(w.rand, ways))
}

// recreate deletes a machine and makes another of its name, as soon as that goes.
func (w *worker) recreate(ctx context.Context, s *slot) {
	if w.delete(ctx, s); s.taken {
		return
	}
	for range recreations {
		if ctx.Err() != nil {
			return
		}
		if s.taken = w.createAs(ctx, s.machineName(), s.wanted) != history.Refused; s.taken {
			return
		}
		wait(ctx, time.Duration(w.rand.Int64N(int64(betweenBare))))
	}
}

// edit is a change, with a number in it.
type edit struct{ kind, patch string }

// edit changes an object as its user may: what the product needs is there again soon.
func (w *worker) edit(ctx context.Context, object client.Object, name string, edits []edit) error {
	chosen := one(w.rand, edits)
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, chosen.patch, w.rand.IntN(1000)))
	object.SetNamespace(w.ns)
	object.SetName(name)
	return w.do(ctx, w.about(chosen.kind, name), func(ctx context.Context) error { return w.client.Patch(ctx, object, patch) })
}

// forge makes machines like bare, and now and then one that brings along what is another's.
func (w *worker) forge(ctx context.Context) {
	if w.rand.IntN(3) > 0 {
		w.bare(ctx)
		return
	}
	machines := &capvv1.VSphereMachineList{}
	listing, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if err := w.client.List(listing, machines, client.InNamespace(w.ns)); err != nil || len(machines.Items) == 0 {
		return
	}
	victim := &machines.Items[w.rand.IntN(len(machines.Items))]
	name := fmt.Sprintf("w%d-forged-%d", w.id, w.ids.Add(1))
	kind, forged := w.forgery(victim, name)
	harness.WithAnnotation(history.ByHandAnnotation, "")(forged)
	if w.do(ctx, w.about(kind, name), func(ctx context.Context) error { return w.client.Create(ctx, forged) }) != nil {
		return
	}
	wait(ctx, time.Duration(w.rand.Int64N(int64(5*time.Second))))
	// As long as it is there, the pool lacks what it brought along.
	for range recreations {
		err := w.do(ctx, w.about("delete", name), func(ctx context.Context) error {
			return client.IgnoreNotFound(w.client.Delete(ctx, harness.Machine(w.ns, name)))
		})
		if err == nil {
			return
		}
		wait(context.WithoutCancel(ctx), betweenOps)
	}
}

// forgery is a machine with what another one has: all of it, or its bindings alone.
func (w *worker) forgery(victim *capvv1.VSphereMachine, name string) (kind string, forged *capvv1.VSphereMachine) {
	if w.rand.IntN(2) == 0 {
		forged = harness.Machine(w.ns, name)
		forged.Spec = *victim.Spec.DeepCopy()
		forged.Spec.ProviderID = ""
		forged.Labels, forged.Annotations = victim.Labels, victim.Annotations
		// CAPV would keep a machine with its finalizer that no Machine owns.
		harness.WithFinalizer("capv-static-ip.dev/release")(forged)
		return "copy", forged
	}
	forged = harness.Machine(w.ns, name)
	for key, value := range victim.Annotations {
		harness.WithAnnotation(key, value)(forged)
	}
	forged.Spec.Network.Devices = make([]capvv1.NetworkDeviceSpec, len(victim.Spec.Network.Devices))
	for i := range forged.Spec.Network.Devices {
		forged.Spec.Network.Devices[i] = harness.StaticDevice()
	}
	return "forge", forged
}
