//go:build heavy

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// A control plane tries a dry run, and replaces a machine that cannot keep its address.
// Without one machine more in between it needs three.
func TestControlPlaneIsUpdatedInPlaceOnlyWhereItsAddressesStay(t *testing.T) {
	t.Parallel()
	s := newBootstrappedScene(t)
	s.updateInPlace()
	s.create(s.pool(harness.OfMetal3, "control-plane", 10, 19), s.pool(harness.OfMetal3, "other", 30, 39))
	template := s.template("control-plane", harness.WithPool("control-plane"))
	controlPlane := s.controlPlane(template, 3)
	s.set(controlPlane, map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": int64(0)}}, "spec", "rollout", "strategy")
	s.create(template, controlPlane)
	s.awaitControlPlane(3, "v1.36.3")
	before := s.controlPlaneMachines(3)

	s.rollControlPlane(controlPlane, s.template("next", harness.WithPool("control-plane"), withDevice(withMTU)))
	s.eventually(provisioned, "all machines to be updated in place", func(ctx context.Context) error {
		var errs []error
		for _, node := range before {
			errs = append(errs, s.isUpdated(ctx, node, "next"))
		}
		return errors.Join(errs...)
	})
	for i, after := range s.controlPlaneMachines(3) {
		if after.Machine.UID != before[i].Machine.UID || after.VM.ID != before[i].VM.ID ||
			!slices.Equal(harness.Addresses(after.Machine), harness.Addresses(before[i].Machine)) {
			t.Errorf("machine %s has become %+v", before[i].Machine.Name, after)
		}
	}

	s.rollControlPlane(controlPlane, s.template("other", harness.WithPool("other")))
	s.within(s.replacedOf("other"), 30, 39)

	s.rollControlPlane(controlPlane, s.template("moved", harness.WithPool("control-plane"), withDevice(func(device *capvv1.NetworkDeviceSpec) {
		device.NetworkName = "DC0_DVPG0"
	})))
	s.within(s.replacedOf("moved"), 10, 19)
}

// controlPlaneMachines waits until the control plane has so many virtual machines.
func (s *scene) controlPlaneMachines(count int) []stack.Node {
	s.Helper()
	nodes, err := s.stack.AwaitControlPlane(s.Context(), s.ns, count, bootstrapped)
	if err != nil {
		s.Fatal(err)
	}
	s.allAgree("the control plane", nodes)
	return nodes
}

// rollControlPlane makes a control plane one of another template.
func (s *scene) rollControlPlane(controlPlane *unstructured.Unstructured, template *capvv1.VSphereMachineTemplate) {
	s.Helper()
	s.create(template)
	s.get(controlPlane)
	patch(s, controlPlane, func(controlPlane *unstructured.Unstructured) {
		s.set(controlPlane, template.Name, "spec", "machineTemplate", "spec", "infrastructureRef", "name")
	})
}

// replacedOf waits for the first new machine of a template. None that lived before may
// become one of it.
func (s *scene) replacedOf(template string) []stack.Node {
	s.Helper()
	old := map[string]bool{}
	machines := &capvv1.VSphereMachineList{}
	s.list(machines)
	for _, machine := range machines.Items {
		old[machine.Name] = machine.Annotations[clusterv1.TemplateClonedFromNameAnnotation] != template
	}
	var found []stack.Node
	s.eventually(bootstrapped, "a new machine of template "+template, func(ctx context.Context) error {
		list := &capvv1.VSphereMachineList{}
		if err := s.stack.Plane.Client.List(ctx, list, client.InNamespace(s.ns)); err != nil {
			return err
		}
		found = nil
		for i := range list.Items {
			machine := &list.Items[i]
			if machine.Annotations[clusterv1.TemplateClonedFromNameAnnotation] != template {
				continue
			}
			if old[machine.Name] {
				s.Errorf("machine %s has become one of template %s", machine.Name, template)
			}
			found = append(found, stack.Node{Machine: machine})
		}
		if len(found) == 0 {
			return fmt.Errorf("there is none of %d", len(list.Items))
		}
		return nil
	})
	s.step("%d machines are new, of template %s", len(found), template)
	return found
}
