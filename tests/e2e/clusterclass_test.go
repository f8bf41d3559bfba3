package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/docs"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// topologyCluster is the Cluster of the example in docs/clusterclass.md.
const topologyCluster = "prod"

// The example of docs/clusterclass.md, and what it says of later changes.
func TestPoolsOfATopologyAreThoseOfItsMachines(t *testing.T) {
	t.Parallel()
	s := newEmptyScene(t, shared)
	port, err := shared.Plane.Port()
	if err != nil {
		t.Fatal(err)
	}
	s.startWorkload(topologyCluster, port)
	s.create(s.pool(harness.OfMetal3, "other", 200, 209), s.credentials())
	for _, object := range s.example("docs/clusterclass.md") {
		s.adapt(object, port)
		s.create(object)
	}

	s.within(s.awaitTopologyControlPlane(), 10, 13)
	workers := s.awaitReplicas("md-0", 1)
	born := s.awaitWorkers(workers)
	s.within(born, 50, 99)

	s.changeTopology("other", 1)
	s.eventually(provisioned, "the label of the machine to follow", func(ctx context.Context) error {
		nodes, err := s.stack.Nodes(ctx, workers)
		if err != nil || len(nodes) != 1 || nodes[0].Machine.Labels[harness.PoolLabel] != "other" {
			return errors.Join(fmt.Errorf("there are %d machines, and not one with the label", len(nodes)), err)
		}
		return nil
	})
	s.changeTopology("other", 2)
	workers = s.awaitReplicas("md-0", 2)
	for _, node := range s.awaitWorkers(workers) {
		if node.Machine.UID == born[0].Machine.UID {
			s.within([]stack.Node{node}, 50, 99)
			continue
		}
		s.within([]stack.Node{node}, 200, 209)
	}
}

// credentials are the Secret that the example has CAPV log in with.
func (s *scene) credentials() client.Object {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "vcenter"},
		StringData: map[string]string{"username": s.stack.VCenter.Username, "password": s.stack.VCenter.Password},
	}
}

// example are the manifests of a page, with addresses of the scene.
func (s *scene) example(name string) []*unstructured.Unstructured {
	s.Helper()
	page, err := docs.Read(s.stack.Plane.Root(), name)
	if err != nil {
		s.Fatal(err)
	}
	page.Text = strings.ReplaceAll(page.Text, "10.20.56.", strings.TrimSuffix(s.address(0), "0"))
	objects, err := page.Manifests()
	if err != nil {
		s.Fatal(err)
	}
	return objects
}

// adapt puts into an object of the example what its reader is to put there: what the
// vCenter has, and one machine of each sort, at whose endpoint is what plays kubeadm.
func (s *scene) adapt(object *unstructured.Unstructured, port int) {
	s.Helper()
	object.SetNamespace(s.ns)
	switch object.GetKind() {
	case "VSphereClusterTemplate":
		s.set(object, s.stack.VCenter.Server, "spec", "template", "spec", "server")
	case "VSphereMachineTemplate":
		manifest, err := harness.Unstructured(s.template("any"))
		if err != nil {
			s.Fatal(err)
		}
		spec, _, _ := unstructured.NestedMap(manifest.Object, "spec", "template", "spec")
		for field, value := range spec {
			if field != "network" {
				s.set(object, value, "spec", "template", "spec", field)
			}
		}
	case "Cluster":
		endpoint := map[string]any{"name": "endpoint", "value": map[string]any{"host": "127.0.0.1", "port": int64(port)}}
		s.set(object, []any{endpoint}, "spec", "topology", "variables")
		s.set(object, int64(1), "spec", "topology", "controlPlane", "replicas")
		workers, _, _ := unstructured.NestedSlice(object.Object, "spec", "topology", "workers", "machineDeployments")
		workers[0].(map[string]any)["replicas"] = int64(1)
		s.set(object, workers, "spec", "topology", "workers", "machineDeployments")
	}
}

func (s *scene) set(object *unstructured.Unstructured, value any, path ...string) {
	s.Helper()
	if err := unstructured.SetNestedField(object.Object, value, path...); err != nil {
		s.Fatal(err)
	}
}

// changeTopology gives the workers of the example another pool and another number.
func (s *scene) changeTopology(pool string, replicas int32) {
	s.Helper()
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: topologyCluster}}
	s.get(cluster)
	patch(s, cluster, func(cluster *clusterv1.Cluster) {
		workers := &cluster.Spec.Topology.Workers.MachineDeployments[0]
		workers.Metadata.Labels = map[string]string{harness.PoolLabel: pool}
		workers.Replicas = &replicas
	})
}

// awaitReplicas waits until the MachineDeployment of this name in a topology asks for
// so many machines.
func (s *scene) awaitReplicas(name string, replicas int32) *clusterv1.MachineDeployment {
	s.Helper()
	found := &clusterv1.MachineDeployment{}
	s.eventually(provisioned, fmt.Sprintf("MachineDeployment %s of the topology to ask for %d machines", name, replicas), func(ctx context.Context) error {
		list := &clusterv1.MachineDeploymentList{}
		err := s.stack.Plane.Client.List(ctx, list, client.InNamespace(s.ns),
			client.MatchingLabels{clusterv1.ClusterTopologyMachineDeploymentNameLabel: name})
		if err != nil || len(list.Items) != 1 {
			return errors.Join(fmt.Errorf("there are %d", len(list.Items)), err)
		}
		if found = &list.Items[0]; *found.Spec.Replicas != replicas {
			return fmt.Errorf("it asks for %d", *found.Spec.Replicas)
		}
		return nil
	})
	return found
}

// awaitWorkers waits for virtual machines that Cluster API makes only when the
// control plane runs.
func (s *scene) awaitWorkers(workers *clusterv1.MachineDeployment) []stack.Node {
	s.Helper()
	nodes, err := s.stack.AwaitNodes(s.Context(), workers, bootstrapped)
	if err != nil {
		s.Fatal(err)
	}
	s.allAgree(workers.Name, nodes)
	return nodes
}

func (s *scene) awaitTopologyControlPlane() []stack.Node {
	s.Helper()
	nodes, err := s.stack.AwaitControlPlane(s.Context(), s.ns, 1, bootstrapped)
	if err != nil {
		s.Fatal(err)
	}
	s.allAgree("the control plane", nodes)
	return nodes
}

// within checks that each node has one address of the scene from first to last.
func (s *scene) within(nodes []stack.Node, first, last byte) {
	s.Helper()
	for _, node := range nodes {
		held := harness.Addresses(node.Machine)
		if len(held) != 1 || !slices.Contains(s.addresses(first, last), held[0]) {
			s.Errorf("machine %s has %v, want one of %s to %s", node.Machine.Name, held, s.address(first), s.address(last))
		}
	}
}
