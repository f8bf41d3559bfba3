package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// controlPlaneName is that of the KubeadmControlPlane of a scene's Cluster.
const controlPlaneName = "dkp-control-plane"

func TestControlPlaneMachineIsBornWithItsAddressAndGivesItBack(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared, withControlPlane)
		s.create(s.pool(by, "control-plane", 10, 10))
		stored := s.watchMachines()
		template := s.template("control-plane", by.Ask("control-plane"))
		controlPlane := s.controlPlane(template, 1)

		s.create(template, controlPlane)

		first := s.firstOf(stored)
		if owners := first.OwnerReferences; len(owners) != 1 || owners[0].Kind != "KubeadmControlPlane" || owners[0].Name != controlPlaneName {
			t.Errorf("the machine was stored with owners %v, want the KubeadmControlPlane", owners)
		}
		if got, want := harness.Addresses(first), s.addresses(10, 10); !slices.Equal(got, want) {
			t.Errorf("the machine was stored with %v, want %v", got, want)
		}
		s.step("the machine is stored")
		// That is as far as it gets: nobody runs kubeadm there.
		s.controlPlaneNodes(1)

		s.delete(controlPlane)
		s.gone(controlPlane, provisioned)
		s.awaitFree()
		s.step("the control plane is deleted, and its address free")
	})
}

// withControlPlane makes a Cluster have the control plane of controlPlane.
func withControlPlane(object client.Object) {
	object.(*clusterv1.Cluster).Spec.ControlPlaneRef = clusterv1.ContractVersionedObjectReference{
		APIGroup: "controlplane.cluster.x-k8s.io", Kind: "KubeadmControlPlane", Name: controlPlaneName,
	}
}

func TestControlPlaneOfThreeRollsOutOnFourAddresses(t *testing.T) {
	harness.ForOneProvider(t, harness.OfMetal3, func(t *testing.T, by harness.Fixture) {
		s := newBootstrappedScene(t)
		s.create(s.pool(by, "control-plane", 10, 13))
		template := s.template("control-plane", by.Ask("control-plane"))
		controlPlane := s.controlPlane(template, 3)
		s.create(template, controlPlane)
		s.awaitControlPlane(3, "v1.36.3")
		s.controlPlaneNodes(3)

		patch(s, controlPlane, func(controlPlane *unstructured.Unstructured) {
			if err := unstructured.SetNestedField(controlPlane.Object, "v1.36.4", "spec", "version"); err != nil {
				t.Fatal(err)
			}
		})

		s.awaitControlPlane(3, "v1.36.4")
		s.controlPlaneNodes(3)
		// Four addresses, three of which the first machines had.
		s.expectReuse(2)
		s.delete(controlPlane)
		s.gone(controlPlane, bootstrapped)
		s.awaitFree()
		s.step("the control plane is deleted, and its addresses are free")
	})
}

// bootstrapped is a deadline for the machines of a control plane, which are made
// and replaced one after the other; each takes a minute.
const bootstrapped = 10 * time.Minute

// newBootstrappedScene makes a scene in whose virtual machines somebody plays
// kubeadm.
func newBootstrappedScene(t *testing.T) *scene {
	t.Helper()
	port, err := shared.Plane.Port()
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t, shared, withControlPlane, func(object client.Object) {
		object.(*clusterv1.Cluster).Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: "127.0.0.1", Port: int32(port)}
	})
	s.startWorkload(harness.DefaultCluster, port)
	return s
}

// startWorkload has somebody play kubeadm in the virtual machines of a Cluster, until
// the test ends.
func (s *scene) startWorkload(cluster string, port int) {
	s.Helper()
	s.startWorkloadAt(cluster, "127.0.0.1", port)
}

// startWorkloadAt is startWorkload for a Cluster with this endpoint.
func (s *scene) startWorkloadAt(cluster, host string, port int) {
	s.Helper()
	workload, err := s.stack.StartWorkload(s.Context(), s.ns, cluster, host, port)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := workload.Stop(); err != nil {
			s.Error(err)
		}
	})
}

// awaitControlPlane waits until the scene has so many machines, all of this
// version and ready: what runs in them knows of each other.
func (s *scene) awaitControlPlane(count int, version string) {
	s.Helper()
	s.eventually(bootstrapped, fmt.Sprintf("%d machines of version %s to be ready", count, version), func(ctx context.Context) error {
		machines := &clusterv1.MachineList{}
		if err := s.stack.Plane.Client.List(ctx, machines, client.InNamespace(s.ns)); err != nil {
			return err
		}
		if len(machines.Items) != count {
			return fmt.Errorf("there are %d machines", len(machines.Items))
		}
		for _, machine := range machines.Items {
			if machine.Spec.Version != version || !meta.IsStatusConditionTrue(machine.Status.Conditions, clusterv1.ReadyCondition) {
				return fmt.Errorf("machine %s is of version %s; conditions: %v", machine.Name, machine.Spec.Version, machine.Status.Conditions)
			}
		}
		return nil
	})
	s.step("%d machines of version %s are ready", count, version)
}

// controlPlane is a KubeadmControlPlane of the scene's Cluster.
func (s *scene) controlPlane(template *capvv1.VSphereMachineTemplate, replicas int64) *unstructured.Unstructured {
	owner := harness.ControlPlaneOwner(s.ns, controlPlaneName, template.Name)
	for _, err := range []error{
		unstructured.SetNestedField(owner.Object, replicas, "spec", "replicas"),
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

// controlPlaneNodes waits until all machines have virtual machines that run, and
// checks that they hold the addresses that these have.
func (s *scene) controlPlaneNodes(count int) {
	s.Helper()
	nodes, err := s.stack.AwaitControlPlane(s.Context(), s.ns, count, provisioned)
	if err != nil {
		s.Fatal(err)
	}
	s.allAgree("the control plane", nodes)
	s.eventually(harness.Soon, "the machines to hold their addresses", func(ctx context.Context) error { return s.allHeld(ctx, nodes) })
}
