package e2e

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

func TestMachinesOfALostManagementClusterAreRestoredInAnother(t *testing.T) {
	t.Parallel()
	restoredFrom(t, stack.ClaimsAndAddresses()...)
}

// restoredFrom loses a management cluster with machines of both providers, and goes through
// docs/restore.md in another one with a backup that is without these resources.
func restoredFrom(t *testing.T, without ...string) {
	t.Helper()
	lost := newScene(t, secondStack(t))
	found := &scene{T: t, stack: shared, ns: lost.ns, network: lost.network, began: lost.began}
	t.Cleanup(found.inspect)
	lost.populateBoth(1)
	before := lost.untouchedFrom(append(lost.nodes(lost.deployment("md-0")), lost.nodes(lost.deployment("md-1"))...))
	lost.eventually(harness.Soon, "the machines to hold their addresses", func(ctx context.Context) error { return lost.allHeld(ctx, before.nodes) })
	backup, err := lost.stack.Backup(t.Context(), lost.ns, without...)
	if err != nil {
		t.Fatal(err)
	}
	lost.abandon()

	namespace := found.frozen()
	if err := found.stack.Restore(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	found.step("all is restored")
	before.in(found).check()
	workers, others := found.deployment("md-0"), found.deployment("md-1")
	found.scale(workers, 2)
	found.eventually(provisioned, "the machine to be refused", func(ctx context.Context) error { return found.refused(ctx, "is frozen") })

	patch(found, namespace, func(namespace *corev1.Namespace) { delete(namespace.Annotations, ipam.FrozenAnnotation) })
	found.nodes(workers)
	before.in(found).check()
	found.rollTo(workers, found.template("next", harness.OfMetal3.Ask("metal3")))
	found.rollTo(others, found.template("next-too", harness.OfInCluster.Ask("in-cluster")))
	found.replaced(workers, madeOf("next"))
	found.replaced(others, madeOf("next-too"))
}

// deployment reads a MachineDeployment.
func (s *scene) deployment(name string) *clusterv1.MachineDeployment {
	s.Helper()
	workers := &clusterv1.MachineDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name}}
	s.get(workers)
	return workers
}

// abandon has nobody look after the Cluster any more, as if its management cluster was lost:
// other tests need that.
func (s *scene) abandon() {
	s.Helper()
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: harness.DefaultCluster}}
	s.get(cluster)
	patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Spec.Paused = new(true) })
	s.step("the Cluster is abandoned")
}

// frozen makes the scene's namespace, which is frozen before anything is in it.
func (s *scene) frozen() *corev1.Namespace {
	s.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: s.ns, Annotations: map[string]string{ipam.FrozenAnnotation: "restoring the backup of Monday"},
	}}
	s.create(namespace)
	return namespace
}
