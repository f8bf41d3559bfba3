package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/tests/harness"
)

// A leader that was cut off may go on for a moment beside the next one.
func TestTwoLeadersDoEachOtherNoHarm(t *testing.T) {
	t.Parallel()
	const machines = 8
	env := ownEnvironment(t, harness.Options{}, 0)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: gracePeriod, WithoutLeaderElection: true}); err != nil {
			t.Fatal(err)
		}
	}
	s := newScene(t, env)
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.120")))
	s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.120"))
	var all []*capvv1.VSphereMachine
	for i := range machines {
		metal3, inCluster := s.pooled(fmt.Sprintf("m-%d", i)), s.inClusterMachine(fmt.Sprintf("c-%d", i))
		s.create(metal3, inCluster)
		all = append(all, metal3, inCluster,
			s.restored(fmt.Sprintf("r-%d", i), contract.InClusterPool(harness.DefaultInClusterPool), fmt.Sprintf("10.16.57.%d", 110+i)))
	}
	held := func(context.Context) error {
		var errs []error
		for i := range machines {
			errs = append(errs, s.isAdopted(fmt.Sprintf("m-%d", i), s.ip(fmt.Sprintf("m-%d", i))),
				s.isAdopted(fmt.Sprintf("c-%d", i), s.ip(fmt.Sprintf("c-%d", i))),
				s.isAdopted(fmt.Sprintf("r-%d", i), fmt.Sprintf("10.16.57.%d", 110+i)))
		}
		return errors.Join(append(errs, s.heldOnce())...)
	}
	s.within(2*harness.Soon, "all machines to hold their addresses", held)

	for i := range machines {
		s.delete(harness.Claim(s.ns, fmt.Sprintf("m-%d-0", i), harness.DefaultPool))
	}
	lost := s.orphan(harness.OfMetal3, "never", 0)
	s.within(2*harness.Soon, "all machines to hold their addresses again", held)
	s.reaped(lost)

	for i, machine := range all {
		policy := metav1.DeletePropagationBackground
		if i%2 == 0 {
			policy = metav1.DeletePropagationForeground
		}
		s.delete(machine, client.PropagationPolicy(policy))
	}
	for _, machine := range all {
		s.gone(machine)
	}
	s.noClaims()
	if addresses := s.addresses(); len(addresses) > 0 {
		s.eventually("all addresses to be back in their pool", func(context.Context) error {
			if addresses = s.addresses(); len(addresses) > 0 {
				return fmt.Errorf("%d are left, the first is %s", len(addresses), addresses[0].GetName())
			}
			return nil
		})
	}
}
