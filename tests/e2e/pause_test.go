package e2e

import (
	"context"
	"fmt"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// Cluster API does not look again, between two machines of one scale-up, whether
// their Cluster is paused.
func TestClusterThatIsPausedInAScaleUpGetsAllItsMachinesLater(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared)
		const replicas = 12
		template := s.template("workers", by.Ask("workers"))
		workers := s.workers(template, "md-paused", replicas)
		s.create(s.pool(by, "workers", 10, 10+replicas, movable(by)...), template, workers)
		s.eventually(harness.Soon, "some machines", func(ctx context.Context) error { return s.has(ctx, 3) })

		cluster := &clusterv1.Cluster{}
		cluster.Namespace, cluster.Name = s.ns, harness.DefaultCluster
		s.get(cluster)
		patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Spec.Paused = new(true) })
		s.eventually(harness.Soon, "the next machine to be refused", func(ctx context.Context) error {
			return s.refused(ctx, "is paused, so that")
		})
		s.step("paused")
		patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Spec.Paused = nil })

		s.nodes(workers)
	})
}

// has checks that there are so many machines at the least.
func (s *scene) has(ctx context.Context, count int) error {
	machines := &capvv1.VSphereMachineList{}
	if err := s.stack.Plane.Client.List(ctx, machines, client.InNamespace(s.ns)); err != nil {
		return err
	}
	if len(machines.Items) < count {
		return fmt.Errorf("there are %d", len(machines.Items))
	}
	return nil
}
