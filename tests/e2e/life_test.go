package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// In these tests the pool is so small that a new machine has to wait for the
// address of an old one, which is where an address could be given away too early.

func TestScaledWorkersGetAddressesThatCameBack(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		workers, _ := s.populate(provider, 2, 3)

		s.scale(workers, 3)
		s.nodes(workers)
		s.scale(workers, 1)
		going := s.deleting(workers, 2)
		s.scale(workers, 3)
		s.replaced(workers, func(machine *capvv1.VSphereMachine) bool { return !slices.Contains(going, machine.Name) })

		s.expectReuse(2)
	})
}

func TestRollOutNeedsNoMoreThanOneMoreAddress(t *testing.T) {
	harness.ForOneProvider(t, harness.OfMetal3, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		workers, _ := s.populate(provider, 3, 4)
		larger := s.template("larger", provider.Ask("pool"))
		larger.Spec.Template.Spec.MemoryMiB *= 2
		s.create(larger)

		patch(s, workers, func(workers *clusterv1.MachineDeployment) {
			workers.Spec.Template.Spec.InfrastructureRef.Name = larger.Name
		})

		s.replaced(workers, func(machine *capvv1.VSphereMachine) bool {
			return machine.Annotations[clusterv1.TemplateClonedFromNameAnnotation] == larger.Name
		})
		// Four addresses, three of which the first machines had.
		s.expectReuse(2)
	})
}

func TestMachineDeletedByHandIsReplacedOnItsAddress(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		workers, nodes := s.populate(provider, 2, 2)
		victim := s.machineOf(nodes[0])

		s.delete(victim)

		s.replaced(workers, func(machine *capvv1.VSphereMachine) bool { return machine.Name != victim.Name })
		s.expectReuse(1)
	})
}

func TestUnhealthyMachineIsReplacedOnItsAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	workers, nodes := s.populate(harness.OfMetal3, 2, 2)
	check := &clusterv1.MachineHealthCheck{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "md-0"}}
	check.Spec.ClusterName = harness.DefaultCluster
	check.Spec.Selector.MatchLabels = map[string]string{clusterv1.MachineDeploymentNameLabel: workers.Name}
	s.create(check)
	victim := s.machineOf(nodes[0])

	patch(s, victim, func(machine *clusterv1.Machine) {
		harness.WithAnnotation(clusterv1.RemediateMachineAnnotation, "")(machine)
	})

	s.replaced(workers, func(machine *capvv1.VSphereMachine) bool { return machine.Name != victim.Name })
	s.expectReuse(1)
}

// populate makes a pool of this size, and workers that have virtual machines.
func (s *scene) populate(provider harness.Fixture, replicas int32, size byte) (*clusterv1.MachineDeployment, []stack.Node) {
	s.Helper()
	template := s.template("workers", provider.Ask("pool"))
	workers := s.workers(template, "md-0", replicas)
	s.create(s.pool(provider, "pool", 88, 87+size), template, workers)
	return workers, s.nodes(workers)
}

// machineOf is the Machine that a VSphereMachine is for: both have one name.
func (s *scene) machineOf(node stack.Node) *clusterv1.Machine {
	s.Helper()
	machine := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: node.Machine.Name}}
	s.get(machine)
	return machine
}

// deleting waits until so many Machines of a MachineDeployment are on their way
// out, and returns their names.
func (s *scene) deleting(workers *clusterv1.MachineDeployment, want int) []string {
	s.Helper()
	var going []string
	s.eventually(provisioned, "Machines of "+workers.Name+" to be deleted", func(ctx context.Context) error {
		list := &clusterv1.MachineList{}
		err := s.stack.Plane.Client.List(ctx, list, client.InNamespace(s.ns),
			client.MatchingLabels{clusterv1.MachineDeploymentNameLabel: workers.Name})
		going = nil
		for _, machine := range list.Items {
			if machine.DeletionTimestamp != nil {
				going = append(going, machine.Name)
			}
		}
		if len(going) < want {
			err = errors.Join(fmt.Errorf("there are %v", going), err)
		}
		return err
	})
	return going
}

// replaced waits until all machines of a MachineDeployment are new ones, and
// complete.
func (s *scene) replaced(workers *clusterv1.MachineDeployment, isNew func(*capvv1.VSphereMachine) bool) {
	s.Helper()
	s.eventually(provisioned, "the machines of "+workers.Name+" to be replaced", func(ctx context.Context) error {
		nodes, err := s.stack.Nodes(ctx, workers)
		if err != nil {
			return err
		}
		var errs []error
		if len(nodes) != int(*workers.Spec.Replicas) {
			errs = append(errs, fmt.Errorf("there are %d", len(nodes)))
		}
		for _, node := range nodes {
			if !isNew(node.Machine) {
				errs = append(errs, fmt.Errorf("%s is not new; deleted at %v", node.Machine.Name, node.Machine.DeletionTimestamp))
			}
		}
		return errors.Join(errs...)
	})
	s.nodes(workers)
}

// expectReuse checks that at least so many addresses have been given to one
// virtual machine after the other: a test of early reuse shows nothing else.
func (s *scene) expectReuse(least int) {
	s.Helper()
	events, err := s.events(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	users := map[string][]string{}
	for _, event := range events {
		for _, address := range event.Addresses {
			if !slices.Contains(users[address], event.ID) {
				users[address] = append(users[address], event.ID)
			}
		}
	}
	reused := 0
	for _, vms := range users {
		if len(vms) > 1 {
			reused++
		}
	}
	if reused < least {
		s.Errorf("%d addresses were used by more than one virtual machine, want at least %d: %v", reused, least, users)
	}
	s.step("%d of %d addresses were used again", reused, len(users))
}
