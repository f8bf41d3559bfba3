package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// withDevice changes the device of a template.
func withDevice(change func(*capvv1.NetworkDeviceSpec)) harness.Option {
	return func(object client.Object) {
		change(&object.(*capvv1.VSphereMachineTemplate).Spec.Template.Spec.Network.Devices[0])
	}
}

func withMTU(device *capvv1.NetworkDeviceSpec) {
	mtu := int64(9000)
	device.MTU = &mtu
}

func TestInPlaceUpdateThroughCAPI(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		extension := s.updateInPlace()
		workers, nodes := s.populate(provider, 1, 6)
		before := nodes[0]
		s.playBootstrapped(before)

		s.roll(workers, s.template("next", provider.Ask("pool"), withDevice(withMTU)))

		s.eventually(provisioned, "the machine to be updated in place", func(ctx context.Context) error {
			return s.isUpdated(ctx, before, "next")
		})
		after := s.nodes(workers)[0]
		if after.Machine.UID != before.Machine.UID || after.VM.ID != before.VM.ID || !extension.hasUpdated(before.Machine.Name) {
			t.Errorf("the machine was %s with VM %s, and is %s with VM %s", before.Machine.UID, before.VM.ID, after.Machine.UID, after.VM.ID)
		}
		if got, want := harness.Addresses(after.Machine), harness.Addresses(before.Machine); !slices.Equal(got, want) {
			t.Errorf("it has %v, had %v", got, want)
		}
		if mtu := after.Machine.Spec.Network.Devices[0].MTU; mtu == nil {
			t.Error("the device is not updated")
		}
		s.eventually(harness.Soon, "the machine to hold its address", func(ctx context.Context) error { return s.held(ctx, after.Machine) })
	})
}

// A MachineSet asks nobody but the extension before it updates a machine, and tries on
// when it is refused.
func TestInPlaceUpdateOfWorkersThatIsRefusedWaitsUntilTheyAreReplaced(t *testing.T) {
	t.Parallel()
	same := func(*capvv1.NetworkDeviceSpec) {}
	for name, test := range map[string]struct {
		pool        string
		device      func(*capvv1.NetworkDeviceSpec)
		refused     string
		first, last byte
	}{
		"to another pool":    {"other", same, "asks for other pools now: replace the machine", 200, 205},
		"to another network": {"pool", func(device *capvv1.NetworkDeviceSpec) { device.NetworkName = "DC0_DVPG0" }, "has another networkName, but holds", 88, 93},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.updateInPlace()
			s.create(s.pool(harness.OfMetal3, "other", 200, 205))
			workers, nodes := s.populate(harness.OfMetal3, 1, 6)
			victim := s.machineOf(nodes[0])

			s.roll(workers, s.template("next", harness.WithPool(test.pool), withDevice(test.device)))

			s.eventually(provisioned, "the refusal to be told", func(ctx context.Context) error { return s.refused(ctx, test.refused) })
			s.get(nodes[0].Machine)
			if got := nodes[0].Machine.Annotations[clusterv1.TemplateClonedFromNameAnnotation]; got != "workers" {
				t.Errorf("the machine is of template %s", got)
			}
			if err := s.held(t.Context(), nodes[0].Machine); err != nil {
				t.Error(err)
			}
			s.step("the update is refused")

			s.delete(victim)
			s.replaced(workers, func(machine *capvv1.VSphereMachine) bool { return machine.Name != victim.Name })
			s.within(s.nodes(workers), test.first, test.last)
		})
	}
}

// roll makes a MachineDeployment one of another template, without a machine more in
// between: Cluster API updates in place what it would have to delete first.
func (s *scene) roll(workers *clusterv1.MachineDeployment, template *capvv1.VSphereMachineTemplate) {
	s.Helper()
	s.create(template)
	patch(s, workers, func(workers *clusterv1.MachineDeployment) {
		workers.Spec.Template.Spec.InfrastructureRef.Name = template.Name
		none, one := intstr.FromInt32(0), intstr.FromInt32(1)
		workers.Spec.Rollout.Strategy = clusterv1.MachineDeploymentRolloutStrategy{
			Type:          clusterv1.RollingUpdateMachineDeploymentStrategyType,
			RollingUpdate: clusterv1.MachineDeploymentRolloutStrategyRollingUpdate{MaxSurge: &none, MaxUnavailable: &one},
		}
	})
}

// playBootstrapped says of a Machine what Cluster API says of those that have a bootstrap
// config, and waits for before it has a machine updated.
func (s *scene) playBootstrapped(node stack.Node) {
	s.Helper()
	machine := s.machineOf(node)
	before := machine.DeepCopy()
	yes := true
	machine.Status.Initialization.BootstrapDataSecretCreated = &yes
	if err := s.stack.Plane.Client.Status().Patch(s.Context(), machine, client.MergeFrom(before)); err != nil {
		s.Fatal(err)
	}
}

// isUpdated checks that a machine is of this template, and that Cluster API is done with it.
func (s *scene) isUpdated(ctx context.Context, node stack.Node, template string) error {
	machine := &clusterv1.Machine{}
	if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(node.Machine), machine); err != nil {
		return err
	}
	infrastructure := &capvv1.VSphereMachine{}
	if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(node.Machine), infrastructure); err != nil {
		return err
	}
	if got := infrastructure.Annotations[clusterv1.TemplateClonedFromNameAnnotation]; got != template {
		return fmt.Errorf("it is of template %s", got)
	}
	if _, is := machine.Annotations[clusterv1.UpdateInProgressAnnotation]; is {
		return errors.New("its update is in progress")
	}
	return nil
}
