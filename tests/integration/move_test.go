package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
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

// In the target, clusterctl makes Clusters, pools and claims in any order, and addresses
// after them.
func TestEndpointThatCoolsDownWaitsForItsPoolInTheTarget(t *testing.T) {
	t.Parallel()
	f := harness.OfInCluster
	source, target := newScene(t, shared), newScene(t, shared)
	pool := f.Pool(source.ns, f.WithIPs(240, 241), coolsFor(forLong))
	source.create(pool, harness.VSphereCluster(source.ns, "first", endpointOf(f)), harness.VSphereCluster(source.ns, "prod", endpointOf(f)))
	ip := f.IP(241)
	source.eventually("the endpoint to be held", func(context.Context) error { return source.endpointIsHeld("prod", ip) })
	source.delete(source.vsphereCluster("prod"))
	since := source.cooling(ip)
	claim, err := source.env.claimNamed(source, f, "prod")
	if err != nil {
		t.Fatal(err)
	}
	address, err := source.address(ip)
	if err != nil {
		t.Fatal(err)
	}

	claim = target.moved(claim)
	target.consistently("the claim waits for its pool", func(context.Context) error { return target.stays(claim) })
	targetPool := target.moved(pool)
	target.consistently("the claim waits for its address", func(context.Context) error {
		if addresses := target.addresses(); len(addresses) > 0 {
			return fmt.Errorf("there is address %s", addresses[0].GetName())
		}
		return target.stays(claim)
	})
	target.moved(address, func(address client.Object) {
		gvk := capiipamv1.GroupVersion.WithKind("IPAddressClaim")
		address.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(claim, gvk)})
	})

	target.staysCooling(ip, since)
	if err := target.stays(claim); err != nil {
		t.Error(err)
	}
	target.endsWhenShortened(targetPool, ip)
	source.delete(source.vsphereCluster("first"))
	source.endsWhenShortened(pool, ip)
}

// moved makes an object in this scene, as clusterctl does in the target.
func (s *scene) moved(object client.Object, changes ...func(client.Object)) client.Object {
	s.Helper()
	copied := object.DeepCopyObject().(client.Object)
	copied.SetNamespace(s.ns)
	copied.SetUID("")
	copied.SetResourceVersion("")
	copied.SetOwnerReferences(nil)
	for _, change := range changes {
		change(copied)
	}
	s.create(copied)
	return copied
}

// stays returns an error if an object is gone, or is being deleted.
func (s *scene) stays(object client.Object) error {
	stored := object.DeepCopyObject().(client.Object)
	if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(object), stored); err != nil {
		return err
	}
	if at := stored.GetDeletionTimestamp(); at != nil {
		return fmt.Errorf("%s is being deleted since %s", object.GetName(), at)
	}
	return nil
}
