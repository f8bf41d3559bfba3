package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// deleted is a deadline for virtual machines to be destroyed and all objects to
// be gone. The namespace controller waits ever longer between its tries, while the
// in-cluster provider refuses to let a pool go before its addresses.
const deleted = 4 * time.Minute

func TestDeletedClusterReturnsEveryAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pools := s.populateBoth(2)
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)

	began := time.Now()
	s.delete(cluster)
	s.gone(cluster, deleted)

	s.step("the Cluster was gone %s after its deletion", time.Since(began).Round(100*time.Millisecond))
	s.expectDestroyed(4)
	s.expectNoClaims()
	s.expectUnused(pools)
}

func TestDeletedNamespaceGoesWithEverythingInIt(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.populateBoth(2)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}

	began := time.Now()
	s.delete(namespace)
	s.gone(namespace, deleted)

	s.step("the namespace was gone %s after its deletion", time.Since(began).Round(100*time.Millisecond))
	s.expectDestroyed(4)
}

func TestForegroundDeletionReturnsEveryAddress(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		template := s.template("workers", provider.Ask("pool"))
		workers := s.workers(template, "md-0", 2)
		s.create(s.pool(provider, "pool", 88, 89), template, workers)
		nodes := s.nodes(workers)
		victim := s.machineOf(nodes[0])

		s.delete(victim, client.PropagationPolicy(metav1.DeletePropagationForeground))
		s.gone(nodes[0].Machine, deleted)
		s.gone(victim, deleted)
		s.nodes(workers)

		began := time.Now()
		s.delete(workers, client.PropagationPolicy(metav1.DeletePropagationForeground))
		s.gone(workers, deleted)

		s.step("the MachineDeployment was gone %s after its deletion", time.Since(began).Round(100*time.Millisecond))
		s.expectDestroyed(3)
		s.expectNoClaims()
		// metal3 may count an address that the garbage collector took back from
		// a claim until it looks at the pool again. It is free nevertheless.
		again := s.workers(template, "md-1", 2)
		s.create(again)
		s.nodes(again)
	})
}

// populateBoth makes workers with addresses of one provider and others with
// those of the other, and returns the pools.
func (s *scene) populateBoth(replicas int32) []client.Object {
	s.Helper()
	ofMetal3, ofInCluster := s.pool(harness.OfMetal3, "metal3", 88, 93), s.pool(harness.OfInCluster, "in-cluster", 98, 103)
	first := s.template("first", harness.OfMetal3.Ask("metal3"))
	second := s.template("second", harness.OfInCluster.Ask("in-cluster"))
	workers, others := s.workers(first, "md-0", replicas), s.workers(second, "md-1", replicas)
	s.create(ofMetal3, ofInCluster, first, second, workers, others)
	s.nodes(workers)
	s.nodes(others)
	return []client.Object{ofMetal3, ofInCluster}
}

// expectDestroyed checks that so many virtual machines have been destroyed, and
// that there are none.
func (s *scene) expectDestroyed(want int) {
	s.Helper()
	events, err := s.events(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	existing, destroyed := map[string]string{}, 0
	for _, event := range events {
		existing[event.ID] = event.Name
		if event.Kind == stack.VMDestroyed {
			delete(existing, event.ID)
			destroyed++
		}
	}
	if len(existing) > 0 || destroyed != want {
		s.Errorf("%d virtual machines were destroyed, and %v exist; want %d and none", destroyed, existing, want)
	}
}

// expectNoClaims checks that nothing is left of any claim.
func (s *scene) expectNoClaims() {
	s.Helper()
	s.eventually(harness.Soon, "all claims and addresses to be gone", func(ctx context.Context) error {
		var errs []error
		for _, list := range []client.ObjectList{
			&ipamv1.IPClaimList{}, &ipamv1.IPAddressList{}, &capiipamv1.IPAddressClaimList{}, &capiipamv1.IPAddressList{},
		} {
			errs = append(errs, s.isEmpty(ctx, list))
		}
		return errors.Join(errs...)
	})
}

func (s *scene) isEmpty(ctx context.Context, list client.ObjectList) error {
	if err := s.stack.Plane.Client.List(ctx, list, client.InNamespace(s.ns)); err != nil {
		return err
	}
	var errs []error
	err := meta.EachListItem(list, func(object runtime.Object) error {
		left, err := meta.Accessor(object)
		if err == nil {
			errs = append(errs, fmt.Errorf("there is %T %s, with finalizers %v", object, left.GetName(), left.GetFinalizers()))
		}
		return err
	})
	return errors.Join(append(errs, err)...)
}

// expectUnused checks that the pools say that none of their addresses is used.
func (s *scene) expectUnused(pools []client.Object) {
	s.Helper()
	s.eventually(harness.Soon, "every address to be back in its pool", func(ctx context.Context) error {
		var errs []error
		for _, pool := range pools {
			if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
				return err
			}
			if used := usedOf(pool); used != 0 {
				errs = append(errs, fmt.Errorf("pool %s says that %d are used", pool.GetName(), used))
			}
		}
		return errors.Join(errs...)
	})
}

// usedOf is how many of a pool's addresses are used, as its status has it.
func usedOf(pool client.Object) int {
	switch pool := pool.(type) {
	case *ipamv1.IPPool:
		return len(pool.Status.Allocations)
	case *unstructured.Unstructured:
		used, found, err := unstructured.NestedInt64(pool.Object, "status", "ipAddresses", "used")
		if err != nil || !found {
			return -1
		}
		return int(used)
	default:
		return -1
	}
}
