package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// unreadyRanges is a group of pools whose provider says why it binds no claim.
const unreadyRanges = "unready." + rangeGroup

// The provider's reason is one of few; its message may differ on every try.
func TestReasonOfAProviderThatWaitsStandsInTheDenial(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.installRanges(unreadyRanges)
	s.grantRanges(unreadyRanges)
	s.create(newRange(unreadyRanges, s.ns))
	defer s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		return s.says(ctx, claim, "PoolNotReady", "login to the IPAM server was refused: password expired")
	})()
	want := s.text(`Range "lab" in namespace "NAMESPACE" has not bound a claim in time: its IPAM provider says "PoolNotReady" on the claim`)

	s.eventually("the denial", func(ctx context.Context) error {
		machine := harness.Machine(s.ns, "cp-0", harness.WithCluster(""), withPoolOf("0", "Range."+unreadyRanges+"/lab"))
		err := s.env.Client.Create(ctx, machine)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "password") {
			return fmt.Errorf("got %w, want it to say %q", err, want)
		}
		return nil
	})
}

func TestAddressThatIsReservedForAClaimAndUsedByAnotherIsNamed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.Pool(s.ns)
	s.create(pool)
	first := s.pooled("cp-0")
	s.create(first)
	ip := s.settled("cp-0")
	s.change(pool, func() {
		pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"cp-1-0": ipamv1.IPAddressStr(ip)}
	})

	err := s.env.Client.Create(t.Context(), s.pooled("cp-1"))

	s.expectDenial(err, `IPPool "dkp-cluster" in namespace "NAMESPACE" has not bound a claim in time: its spec.preAllocations reserve `+ip+
		` for this claim, which another claim has: correct the pool, or release that claim`)
	s.expectNoOrphans()
}
