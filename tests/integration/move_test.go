package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

func TestAddressOfAMachineThatMovedAwayStaysTakenAndUnprotected(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	s.create(harness.Pool(s.ns), cluster, s.pooled("cp-0"))
	ip := s.settled("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	address, err := s.address(ip)
	if err != nil {
		t.Fatal(err)
	}

	s.change(cluster, func() { cluster.Spec.Paused = new(true) })
	s.deleteForMove(claim)
	// clusterctl is rarely this slow.
	s.consistently("metal3 leaves the address alone while the claim is being deleted", func(ctx context.Context) error {
		err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(address), address)
		if err == nil && !address.GetDeletionTimestamp().IsZero() {
			err = fmt.Errorf("%s is being deleted", ip)
		}
		return err
	})
	s.stripFinalizers(claim)
	for _, object := range []client.Object{s.machine("cp-0"), cluster} {
		s.deleteForMove(object)
		s.stripFinalizers(object)
	}

	s.eventually("the address to be unprotected", func(ctx context.Context) error {
		err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(address), address)
		if err == nil && slices.Contains(address.GetFinalizers(), ipam.InUseFinalizer) {
			err = fmt.Errorf("its finalizers are %v", address.GetFinalizers())
		}
		return err
	})
	err = harness.Consistently(t.Context(), gracePeriod+gracePeriod/4, "the address stays", func(ctx context.Context) error {
		err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(address), address)
		if err == nil && !address.GetDeletionTimestamp().IsZero() {
			err = fmt.Errorf("%s is being deleted", ip)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// deleteForMove begins to delete an object as clusterctl does after it has made
// it in another management cluster.
func (s *scene) deleteForMove(object client.Object) {
	s.Helper()
	s.change(object, func() {
		object.SetAnnotations(map[string]string{clusterctlv1.DeleteForMoveAnnotation: ""})
	})
	s.delete(object)
}

// stripFinalizers ends the deletion of an object.
func (s *scene) stripFinalizers(object client.Object) {
	s.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":[]}}`))
	if err := s.env.Client.Patch(s.Context(), object, patch); client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	s.gone(object)
}
