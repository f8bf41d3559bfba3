package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// controlPlaneName is that of the KubeadmControlPlane of a scene's Cluster.
const controlPlaneName = "dkp-control-plane"

func TestControlPlaneMachineIsBornWithItsAddressAndGivesItBack(t *testing.T) {
	t.Parallel()
	for _, by := range []ipam{metal3, inCluster} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared, withControlPlane)
			s.create(by.pool(s, "control-plane", 10, 10))
			stored := s.watchMachines()
			template := s.template("control-plane", by.ask("control-plane"))
			controlPlane := s.controlPlane(template)

			s.create(template, controlPlane)

			first := s.firstOf(stored)
			if owners := first.OwnerReferences; len(owners) != 1 || owners[0].Kind != "KubeadmControlPlane" || owners[0].Name != controlPlaneName {
				t.Errorf("the machine was stored with owners %v, want the KubeadmControlPlane", owners)
			}
			if got, want := harness.Addresses(first), s.addresses(10, 10); !slices.Equal(got, want) {
				t.Errorf("the machine was stored with %v, want %v", got, want)
			}
			s.step("the machine is stored")
			node := s.controlPlaneNode()
			if err := s.agree(node); err != nil {
				t.Error(err)
			}
			s.eventually(harness.Soon, "the machine to hold its address", func(ctx context.Context) error { return s.held(ctx, first) })
			s.step("it has a virtual machine, with %v", node.VM.Reported)

			s.delete(controlPlane)
			s.gone(controlPlane, provisioned)
			s.awaitFree()
			s.step("the control plane is deleted, and its address free")
		})
	}
}

// withControlPlane makes a Cluster have the control plane of controlPlane.
func withControlPlane(object client.Object) {
	object.(*clusterv1.Cluster).Spec.ControlPlaneRef = clusterv1.ContractVersionedObjectReference{
		APIGroup: "controlplane.cluster.x-k8s.io", Kind: "KubeadmControlPlane", Name: controlPlaneName,
	}
}

// controlPlane is a KubeadmControlPlane with one machine. It never gets further
// than a virtual machine that runs: nobody runs kubeadm there.
func (s *scene) controlPlane(template *capvv1.VSphereMachineTemplate) *unstructured.Unstructured {
	owner := harness.ControlPlaneOwner(s.ns, controlPlaneName, template.Name)
	for _, err := range []error{
		unstructured.SetNestedField(owner.Object, int64(1), "spec", "replicas"),
		unstructured.SetNestedMap(owner.Object, map[string]any{"format": "cloud-config"}, "spec", "kubeadmConfigSpec"),
	} {
		if err != nil {
			s.Fatal(err)
		}
	}
	return owner
}

// watchMachines passes on the first machine of the scene as it was first stored.
func (s *scene) watchMachines() <-chan *capvv1.VSphereMachine {
	s.Helper()
	watcher, err := s.stack.Plane.Client.Watch(s.Context(), &capvv1.VSphereMachineList{}, client.InNamespace(s.ns))
	if err != nil {
		s.Fatal(err)
	}
	stored := make(chan *capvv1.VSphereMachine, 1)
	go func() {
		defer watcher.Stop()
		for event := range watcher.ResultChan() {
			if machine, ok := event.Object.(*capvv1.VSphereMachine); ok && event.Type == watch.Added {
				stored <- machine
				return
			}
		}
	}()
	return stored
}

func (s *scene) firstOf(stored <-chan *capvv1.VSphereMachine) *capvv1.VSphereMachine {
	s.Helper()
	select {
	case machine := <-stored:
		return machine
	case <-time.After(provisioned):
		s.Fatalf("no machine was stored within %s", provisioned)
		return nil
	}
}

// controlPlaneNode waits until the only machine has a virtual machine that runs.
func (s *scene) controlPlaneNode() stack.Node {
	s.Helper()
	node := stack.Node{}
	s.eventually(provisioned, "the control plane's machine to have a virtual machine", func(ctx context.Context) error {
		machines := &capvv1.VSphereMachineList{}
		if err := s.stack.Plane.Client.List(ctx, machines, client.InNamespace(s.ns)); err != nil {
			return err
		}
		vms, err := s.stack.VCenter.VMs(ctx)
		if err != nil || len(machines.Items) != 1 {
			return fmt.Errorf("there are %d machines, error %w", len(machines.Items), err)
		}
		node.Machine = &machines.Items[0]
		at := slices.IndexFunc(vms, func(vm harness.VM) bool { return vm.Name == node.Machine.Name })
		if at < 0 {
			return fmt.Errorf("machine %s has none", node.Machine.Name)
		}
		if node.VM = vms[at]; len(node.VM.Reported) == 0 || node.Machine.Spec.ProviderID == "" {
			return fmt.Errorf("machine %s reports %v, its providerID is %q", node.Machine.Name, node.VM.Reported, node.Machine.Spec.ProviderID)
		}
		return nil
	})
	return node
}
