package integration

import (
	"context"
	"errors"
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

	denial := `IPPool "dkp-cluster" in namespace "NAMESPACE" answered with an unusable address: ` +
		`written out with its prefix length it is longer than the 39 characters that CAPV takes; correct the pool`
	s.denyMachines(denial, harness.WithPool(harness.DefaultPool))
	// The older version would take it, and what Cluster API writes later by the newer one fail.
	s.expectDenial(s.env.Client.Create(t.Context(), s.older(harness.Machine(s.ns, "older", harness.WithPool(harness.DefaultPool)))), denial)

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

func TestPoolOfPrefixesIsDeniedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	const prefixRanges = "prefix." + rangeGroup
	s := newScene(t, shared)
	s.installRanges(prefixRanges)
	s.grantRanges(prefixRanges)
	pool := newRange(prefixRanges, s.ns)
	pool.Object["spec"] = map[string]any{"allocationPrefixLength": int64(64)}
	s.create(pool)
	asking := withPoolOf("0", "Range."+prefixRanges+"/lab")
	s.readable(asking)

	s.denyMachines(`Range "lab" in namespace "NAMESPACE" hands out prefixes, and a device needs an address: name a pool of addresses in `+byAnnotation, asking)

	s.noClaims()
}

// Some providers have one address for each host name.
func TestOneAddressForTwoDevicesIsDeniedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	const oneRanges = "one." + rangeGroup
	s := newScene(t, shared)
	s.installRanges(oneRanges)
	s.grantRanges(oneRanges)
	s.create(newRange(oneRanges, s.ns))
	ref := "Range." + oneRanges + "/lab"
	s.readable(withPoolOf("0", ref))
	// The endpoint of a Cluster in another scene counts on every network: no other test has
	// this address.
	defer s.playContract(s.answersWith("10.16.75.88"))()

	s.expectDenial(s.env.Client.Create(t.Context(), harness.Machine(s.ns, "cp-0", harness.WithCluster(""), withPoolOf("0", ref), withPoolOf("1", ref),
		harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()))),
		`Range "lab" answered with one address for device 0 and for device 1: name different pools for them`)

	s.noClaims()
}

// readable waits until both managers can read the pool that such a machine asks
// for: until then a dry run is told of what is missing, by a warning.
func (s *scene) readable(asking harness.Option) {
	s.Helper()
	for _, manager := range s.env.managers {
		s.eventually("a manager to read the pool", func(context.Context) error {
			request := s.creation("probe", s.raw(harness.Machine(s.ns, "probe", harness.WithCluster(""), asking)))
			request.DryRun = new(true)
			for _, warning := range s.ask(manager, request).Warnings {
				if strings.Contains(warning, "cannot be read") || strings.Contains(warning, "cannot exist") {
					return errors.New(warning)
				}
			}
			return nil
		})
	}
}
