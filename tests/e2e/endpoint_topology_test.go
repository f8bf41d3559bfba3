package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// loopbackOfTopology is the endpoint of a Cluster with a class.
const loopbackOfTopology = "127.0.53.6"

// The example of docs/clusterclass.md with what docs/endpoint.md says to change in it.
func TestEndpointOfATopologyIsOfAPool(t *testing.T) {
	t.Parallel()
	by := harness.OfInCluster
	s := newEmptyScene(t, shared)
	port, err := shared.Plane.Port()
	if err != nil {
		t.Fatal(err)
	}
	s.startWorkloadAt(topologyCluster, loopbackOfTopology, port)
	s.create(by.Pool(s.ns, harness.WithPoolName("vips"), harness.WithRange(loopbackOfTopology, loopbackOfTopology), harness.WithPrefix(8), harness.WithGateway("")),
		s.credentials())
	for _, object := range s.example("docs/clusterclass.md") {
		s.adapt(object, port)
		s.askInClass(object, port)
		s.create(object)
	}

	s.awaitTopologyControlPlane()

	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: topologyCluster}}
	s.get(cluster)
	infrastructure := &capvv1.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: cluster.Spec.InfrastructureRef.Name}}
	s.get(infrastructure)
	if cluster.Spec.ControlPlaneEndpoint != (clusterv1.APIEndpoint{Host: loopbackOfTopology, Port: int32(port)}) {
		t.Errorf("the Cluster has the endpoint %v", cluster.Spec.ControlPlaneEndpoint)
	}
	s.step("the Cluster has its endpoint")
	before := infrastructure.Generation
	patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Annotations = map[string]string{"example.org/again": "1"} })
	s.eventually(provisioned, "the topology to be reconciled", func(ctx context.Context) error {
		if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(cluster), cluster); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(cluster.Status.Conditions, clusterv1.ClusterTopologyReconciledCondition) {
			return fmt.Errorf("its conditions are %v", cluster.Status.Conditions)
		}
		return nil
	})
	s.get(infrastructure)
	if infrastructure.Generation != before || infrastructure.Spec.ControlPlaneEndpoint.Host != loopbackOfTopology {
		t.Errorf("the VSphereCluster has the endpoint %v, and generation %d after %d", infrastructure.Spec.ControlPlaneEndpoint, infrastructure.Generation, before)
	}
}

// askInClass has the class of the example ask for the endpoint, in place of a variable.
func (s *scene) askInClass(object *unstructured.Unstructured, port int) {
	s.Helper()
	switch object.GetKind() {
	case "ClusterClass":
		unstructured.RemoveNestedField(object.Object, "spec", "variables")
		unstructured.RemoveNestedField(object.Object, "spec", "patches")
	case "Cluster":
		unstructured.RemoveNestedField(object.Object, "spec", "topology", "variables")
	case "VSphereClusterTemplate":
		ask := map[string]any{"pools.capv-static-ip.dev/control-plane-endpoint": "InClusterIPPool/vips"}
		err := errors.Join(
			unstructured.SetNestedMap(object.Object, ask, "spec", "template", "metadata", "annotations"),
			unstructured.SetNestedField(object.Object, int64(port), "spec", "template", "spec", "controlPlaneEndpoint", "port"))
		if err != nil {
			s.Fatal(err)
		}
	}
}
