package integration

import (
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/tests/harness"
)

func TestPoolOfBothFamiliesGivesThoseOfTheFirst(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.88"))
	pool.Spec.Pools = append(pool.Spec.Pools, harness.Range("fd00:56::10", "fd00:56::20"))
	s.create(pool)
	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))

	s.denyMachines(`IPPool "dkp-cluster" in namespace "NAMESPACE" is exhausted: 1 of 1 addresses in use; add addresses to the pool or delete a machine that holds one`,
		harness.WithPool(harness.DefaultPool))

	if claims := s.claims(); len(claims) != 1 {
		t.Errorf("%d claims are there, want that of the first machine", len(claims))
	}
}

func TestAddressThatIsTooLongForTheDeviceIsDeniedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.Pool(s.ns)
	pool.Spec = ipamv1.IPPoolSpec{NamePrefix: "dkp", Prefix: 64, Pools: []ipamv1.Pool{
		harness.Range("2001:db8:1234:5678:9abc:def0:1234:1000", "2001:db8:1234:5678:9abc:def0:1234:10ff"),
	}}
	s.create(pool)

	s.denyMachines(`IPPool "dkp-cluster" in namespace "NAMESPACE" answered with an unusable address: `+
		`written out with its prefix length it is longer than the 39 characters that CAPV takes; correct the pool`,
		harness.WithPool(harness.DefaultPool))

	s.noClaims()
}

func TestPoolsWithOneNamePrefixAreNamedWhereTheirAddressesCollide(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	first, second := harness.Pool(s.ns), harness.Pool(s.ns, harness.PoolNamed("second"))
	first.Spec.NamePrefix, second.Spec.NamePrefix = "same", "same"
	s.create(first, second)
	claim := s.foreignClaim(harness.OfMetal3, "somebody")
	s.bind(claim)

	err := s.env.Client.Create(t.Context(), harness.Machine(s.ns, "cp-0", harness.WithPool("second")))

	if err == nil || !strings.Contains(err.Error(), `the same namePrefix "same"`) {
		t.Errorf("got %v, want to be told of the namePrefix", err)
	}
	s.delete(claim)
}
