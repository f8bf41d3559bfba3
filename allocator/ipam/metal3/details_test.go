package metal3

import (
	"net/netip"
	"slices"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
)

func TestAddressesThatMetal3HandsOutAndThatTheNetworkNeeds(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ipamv1.IPPoolSpec)
		want   []string
	}{
		"none":             {func(*ipamv1.IPPoolSpec) {}, nil},
		"outside of it":    {func(s *ipamv1.IPPoolSpec) { s.Gateway = new(ipamv1.IPAddressStr("10.0.0.254")) }, nil},
		"nonsense":         {func(s *ipamv1.IPPoolSpec) { s.DNSServers = []ipamv1.IPAddressStr{"dns"} }, nil},
		"its gateway":      {func(s *ipamv1.IPPoolSpec) { s.Gateway = new(ipamv1.IPAddressStr("10.0.0.4")) }, []string{"its gateway 10.0.0.4"}},
		"that of an entry": {func(s *ipamv1.IPPoolSpec) { s.Pools[0].Gateway = new(ipamv1.IPAddressStr("10.0.0.4")) }, []string{"its gateway 10.0.0.4"}},
		"its name server":  {func(s *ipamv1.IPPoolSpec) { s.DNSServers = []ipamv1.IPAddressStr{"10.0.0.5"} }, []string{"its name server 10.0.0.5"}},
		"its network":      {func(s *ipamv1.IPPoolSpec) { *s.Pools[0].Start = "10.0.0.0" }, []string{"its network address 10.0.0.0"}},
		"everybody":        {func(s *ipamv1.IPPoolSpec) { *s.Pools[0].End = "10.0.0.255" }, []string{"its broadcast address 10.0.0.255"}},
		"of an entry":      {func(s *ipamv1.IPPoolSpec) { s.Pools[0].Prefix, *s.Pools[0].End = 29, "10.0.0.7" }, []string{"its broadcast address 10.0.0.7"}},
		"kept for a claim": {func(s *ipamv1.IPPoolSpec) { s.PreAllocations = map[string]ipamv1.IPAddressStr{"lb": "10.0.0.4"} }, nil},
		"one that is twice": {func(s *ipamv1.IPPoolSpec) {
			s.Gateway, s.DNSServers = new(ipamv1.IPAddressStr("10.0.0.4")), []ipamv1.IPAddressStr{"10.0.0.4"}
		}, []string{"its gateway 10.0.0.4"}},
	} {
		t.Run(name, func(t *testing.T) {
			pool := poolWith(test.change, entry("10.0.0.1", "10.0.0.6", ""))
			if pool.Spec.Prefix == 0 {
				pool.Spec.Prefix = 24
			}
			var got []string
			for _, n := range ipam.DetailsOf(Provider{}, pool).Needed {
				got = append(got, n.What+" "+n.IP.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAddressesThatAreKeptForClaims(t *testing.T) {
	pool := poolWith(func(s *ipamv1.IPPoolSpec) {
		s.PreAllocations = map[string]ipamv1.IPAddressStr{"lb": "10.9.0.4", "nonsense": "x"}
	}, entry("10.0.0.1", "10.0.0.6", ""))
	kept := (Provider{}).Details(pool).KeptFor
	if len(kept) != 1 || kept["lb"] != netip.MustParseAddr("10.9.0.4") {
		t.Errorf("got %v, want 10.9.0.4 for lb", kept)
	}
}

func TestPoolMovesIfItSaysSoOrIsOfACluster(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ipamv1.IPPool)
		moves  bool
	}{
		"it says nothing":       {func(*ipamv1.IPPool) {}, false},
		"of a Cluster":          {func(p *ipamv1.IPPool) { p.Spec.ClusterName = new("prod") }, true},
		"of none":               {func(p *ipamv1.IPPool) { p.Spec.ClusterName = new("") }, false},
		"labelled":              {func(p *ipamv1.IPPool) { p.Labels = map[string]string{clusterctlv1.ClusterctlMoveLabel: ""} }, true},
		"labelled with its own": {func(p *ipamv1.IPPool) { p.Labels = map[string]string{clusterctlv1.ClusterctlMoveHierarchyLabel: ""} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			pool := poolOf(entry("10.0.0.1", "10.0.0.6", ""))
			test.change(pool)
			if toMove := (Provider{}).Details(pool).ToMove; (toMove == "") != test.moves {
				t.Errorf("to move it: %q; want that it moves: %t", toMove, test.moves)
			}
		})
	}
}

func TestNothingIsToldOfAPoolOfOthers(t *testing.T) {
	details := (Provider{}).Details(contract.Provider{}.EmptyPool(contract.InClusterPool("lab")))
	if details.KeptFor != nil || details.Needed != nil || details.ToMove != "" {
		t.Errorf("got %+v", details)
	}
}
