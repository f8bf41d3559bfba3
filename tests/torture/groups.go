package main

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
	"capv-static-ip.dev/tests/torture/history"
)

// mostReplicas is how large a worker makes its deployment.
const mostReplicas = 3

// withVM makes and deletes machines that have VMs: each with its Machine, as a MachineSet
// makes them.
func (w *worker) withVM(ctx context.Context) {
	s := &w.slots[w.rand.IntN(len(w.slots))]
	if !s.taken {
		w.createWithVM(ctx, s)
		return
	}
	switch w.rand.IntN(12) {
	case 0:
		w.deleteWithVM(ctx, s)
	case 1:
		if w.deleteWithVM(ctx, s); !s.taken {
			w.createWithVM(ctx, s)
		}
	default:
		// A VM takes some seconds.
		wait(ctx, betweenOps)
	}
}

func (w *worker) createWithVM(ctx context.Context, s *slot) {
	if s.given = ""; w.rand.IntN(2) == 0 {
		s.number++
	}
	from := one(w.rand, w.offered())
	machine := harness.Clone(w.template(w.arena, from, 0), s.machineName(), asking([]source{from}))
	op := w.about(history.Create, s.machineName())
	op.Pools = refs([]source{from})
	if w.rand.IntN(4) == 0 {
		// One that has no name yet gets its address when its Machine owns it.
		machine.GenerateName, machine.Name = s.machineName()+"-", ""
		op.Kind, op.Pools = "create without name", nil
	}
	err := w.do(ctx, op, func(ctx context.Context) error { return w.client.Create(ctx, machine) })
	if s.taken = outcomeOf(err) != history.Refused && machine.Name != ""; !s.taken {
		return
	}
	s.given = machine.Name
	err = w.do(ctx, w.about("create Machine", s.given), func(ctx context.Context) error {
		return w.client.Create(ctx, stack.Machine(w.ns, harness.DefaultCluster, s.given))
	})
	if err != nil {
		w.deleteWithVM(ctx, s)
	}
}

func (w *worker) deleteWithVM(ctx context.Context, s *slot) {
	name := s.machineName()
	err := w.do(ctx, w.about("delete Machine", name), func(ctx context.Context) error {
		machine := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
		// The VSphereMachine goes with its Machine, if it has that.
		return errors.Join(client.IgnoreNotFound(w.client.Delete(ctx, machine)), client.IgnoreNotFound(w.client.Delete(ctx, harness.Machine(w.ns, name))))
	})
	s.taken = err != nil
}

// groups makes what machines come of: deployments and control planes.
func (w *worker) groups(ctx context.Context) {
	if w.rand.IntN(2) == 0 {
		w.endpoint(ctx)
		return
	}
	w.deployment(ctx)
}

// deployment makes, scales, rolls and deletes a MachineDeployment, and machines of it.
func (w *worker) deployment(ctx context.Context) {
	workers := &clusterv1.MachineDeployment{}
	name := fmt.Sprintf("md-%d", w.id)
	reading, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	err := w.client.Get(reading, client.ObjectKey{Namespace: w.ns, Name: name}, workers)
	switch {
	case client.IgnoreNotFound(err) != nil:
	case err != nil:
		w.createDeployment(ctx, name)
	case workers.DeletionTimestamp != nil:
	default:
		w.change(ctx, workers)
	}
	// Machines with VMs take their time.
	wait(ctx, 2*betweenOps)
}

func (w *worker) createDeployment(ctx context.Context, name string) {
	from := one(w.rand, w.offered())
	workers := stack.Workers(w.template(w.arena, from, 0), harness.DefaultCluster, name, int32(1+w.rand.IntN(mostReplicas)))
	wanted := map[string]string{history.PoolsAnnotation: from.ref()}
	workers.Annotations, workers.Spec.Template.Annotations = wanted, wanted
	_ = w.do(ctx, w.about("create MachineDeployment", name), func(ctx context.Context) error { return w.client.Create(ctx, workers) })
}

func (w *worker) change(ctx context.Context, workers *clusterv1.MachineDeployment) {
	before := workers.DeepCopy()
	var kind string
	switch w.rand.IntN(8) {
	case 0:
		_ = w.do(ctx, w.about("delete MachineDeployment", workers.Name), func(ctx context.Context) error {
			return w.client.Delete(ctx, workers, w.propagation())
		})
		return
	case 1:
		w.deleteOneOf(ctx, workers)
		return
	case 2, 3:
		kind = "roll"
		template := &workers.Spec.Template.Spec.InfrastructureRef.Name
		*template = other(*template)
	default:
		kind = "scale"
		count := int32(w.rand.IntN(mostReplicas + 1))
		workers.Spec.Replicas = &count
	}
	_ = w.do(ctx, w.about(kind, workers.Name), func(ctx context.Context) error {
		return w.client.Patch(ctx, workers, client.MergeFrom(before))
	})
}

// other is the other generation of a template.
func other(template string) string {
	end := len(template) - 1
	return fmt.Sprintf("%s%d", template[:end], (int(template[end]-'0')+1)%generations)
}

// deleteOneOf deletes a machine of a deployment, which is replaced.
func (w *worker) deleteOneOf(ctx context.Context, workers *clusterv1.MachineDeployment) {
	machines := &capvv1.VSphereMachineList{}
	listing, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	err := w.client.List(listing, machines, client.InNamespace(w.ns), client.MatchingLabels{clusterv1.MachineDeploymentNameLabel: workers.Name})
	if err != nil || len(machines.Items) == 0 {
		return
	}
	victim := machines.Items[w.rand.IntN(len(machines.Items))].Name
	_ = w.do(ctx, w.about("delete Machine", victim), func(ctx context.Context) error {
		return client.IgnoreNotFound(w.client.Delete(ctx, &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: victim}}, w.propagation()))
	})
}
