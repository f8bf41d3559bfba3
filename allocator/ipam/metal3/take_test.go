package metal3

import (
	"net/netip"
	"slices"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/ipam"
)

// counts are addresses as a ledger counts them.
type counts struct {
	listed
	otherwise, twins int
	unknown          bool
}

func (counts) Claims() int                        { return 0 }
func (counts) HasClaim(types.NamespacedName) bool { return false }
func (c counts) NamedOtherwise(string) int        { return c.otherwise }
func (c counts) Twins() (int, bool)               { return c.twins, !c.unknown }

// servedPool is a pool that metal3 has looked at.
func servedPool(change func(*ipamv1.IPPool), entries ...ipamv1.Pool) *ipamv1.IPPool {
	pool := poolOf(entries...)
	pool.UID, pool.Finalizers = "pool-uid", []string{ipamv1.IPPoolFinalizer}
	pool.Spec.NamePrefix, pool.Spec.Prefix = "dkp", 24
	pool.Status.LastUpdated = new(metav1.Now())
	change(pool)
	return pool
}

func asIs(*ipamv1.IPPool) {}

func claimNamed(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "ns", Name: name}
}

func ips(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestAddressesAreTakenOnlyWhereNobodyElseCanGiveThem(t *testing.T) {
	six := entry("10.0.0.1", "10.0.0.6", "")
	for name, test := range map[string]struct {
		pool *ipamv1.IPPool
		used usage
		want bool
	}{
		"metal3 serves the pool":                  {servedPool(asIs, six), counts{}, true},
		"it has not looked at the pool":           {servedPool(func(p *ipamv1.IPPool) { p.Finalizers = nil }, six), counts{}, false},
		"it has only protected it":                {servedPool(func(p *ipamv1.IPPool) { p.Status.LastUpdated = nil }, six), counts{}, false},
		"it names addresses otherwise":            {servedPool(asIs, six), counts{otherwise: 1}, false},
		"a claim of the other API names the pool": {servedPool(asIs, six), counts{twins: 1}, false},
		"whether one does is not known":           {servedPool(asIs, six), counts{unknown: true}, false},
		"what is used was listed, as of long ago": {servedPool(asIs, six), listed(nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := takingOf(test.pool, test.used) != nil; got != test.want {
				t.Errorf("they are taken: %t, want %t", got, test.want)
			}
		})
	}
}

// The order is free, but for the entries of a pool: metal3 uses up one before the next.
func TestAddressesThatAClaimMayHave(t *testing.T) {
	two := []ipamv1.Pool{entry("10.0.0.1", "10.0.0.3", ""), entry("10.0.1.1", "10.0.1.2", "")}
	reserving := func(ip string) func(*ipamv1.IPPool) {
		return func(p *ipamv1.IPPool) {
			p.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"kept-0": ipamv1.IPAddressStr(ip)}
		}
	}
	for name, test := range map[string]struct {
		pool  *ipamv1.IPPool
		used  []string
		claim string
		want  [][]string
	}{
		"all, entry by entry":              {servedPool(asIs, two...), nil, "cp-0-0", [][]string{{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, {"10.0.1.1", "10.0.1.2"}}},
		"but those that are used":          {servedPool(asIs, two...), []string{"10.0.0.2", "10.0.1.1"}, "cp-0-0", [][]string{{"10.0.0.1", "10.0.0.3"}, {"10.0.1.2"}}},
		"of the second when one is full":   {servedPool(asIs, two...), []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, "cp-0-0", [][]string{{"10.0.1.1", "10.0.1.2"}}},
		"but one that another claim keeps": {servedPool(reserving("10.0.0.2"), two...), nil, "cp-0-0", [][]string{{"10.0.0.1", "10.0.0.3"}, {"10.0.1.1", "10.0.1.2"}}},
		"its own":                          {servedPool(reserving("10.0.1.2"), two...), nil, "kept-0", [][]string{{"10.0.1.2"}}},
		"its own, which is used":           {servedPool(reserving("10.0.1.2"), two...), []string{"10.0.1.2"}, "kept-0", nil},
		"its own, which is not the pool's": {servedPool(reserving("10.9.9.9"), two...), nil, "kept-0", nil},
		"but the gateway": {servedPool(func(p *ipamv1.IPPool) { p.Spec.Gateway = new(ipamv1.IPAddressStr("10.0.0.1")) }, two...), nil, "cp-0-0",
			[][]string{{"10.0.0.2", "10.0.0.3"}, {"10.0.1.1", "10.0.1.2"}}},
		"none that is in two entries twice": {servedPool(asIs, two[0], entry("10.0.0.2", "10.0.0.4", "")), nil, "cp-0-0", [][]string{{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, {"10.0.0.4"}}},
		"none of the other family":          {servedPool(asIs, two[0], entry("fd00::1", "fd00::2", "")), nil, "cp-0-0", [][]string{{"10.0.0.1", "10.0.0.2", "10.0.0.3"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := slices.Collect(addressesFor(test.pool, counts{listed: ips(test.used...)}, claimNamed(test.claim)))
			for _, part := range test.want {
				n := min(len(part), len(got))
				own := slices.SortedFunc(slices.Values(got[:n]), netip.Addr.Compare)
				if !slices.Equal(own, ips(part...)) {
					t.Fatalf("got %v, want %v", own, part)
				}
				got = got[n:]
			}
			if len(got) > 0 {
				t.Errorf("got %v as well", got)
			}
		})
	}
}

func TestTwoReplicasTryAddressesInOneOrderForOneClaimOnly(t *testing.T) {
	pool := servedPool(asIs, entry("10.0.0.1", "10.0.3.250", ""))
	first := func(claim string) netip.Addr {
		for ip := range addressesFor(pool, counts{}, claimNamed(claim)) {
			return ip
		}
		return netip.Addr{}
	}
	if one, two := first("cp-0-0"), first("cp-0-0"); one != two {
		t.Errorf("one claim: got %s and %s", one, two)
	}
	distinct := map[netip.Addr]bool{}
	for _, claim := range []string{"cp-0-0", "cp-1-0", "cp-2-0", "cp-3-0"} {
		distinct[first(claim)] = true
	}
	if len(distinct) != 4 {
		t.Errorf("four claims begin at %d addresses", len(distinct))
	}
}

func TestAddressesOfAPoolThatIsVastAreTried(t *testing.T) {
	pool := servedPool(func(p *ipamv1.IPPool) { p.Spec.Prefix = 64 }, entry("", "", "fd00::/48"))
	tried := 0
	for ip := range addressesFor(pool, counts{}, claimNamed("cp-0-0")) {
		if !netip.MustParsePrefix("fd00::/48").Contains(ip) {
			t.Fatalf("got %s", ip)
		}
		if tried++; tried == 2*probes {
			return
		}
	}
	t.Errorf("got %d addresses", tried)
}

// That metal3 makes just this is shown on metal3 itself, see the integration tests.
func TestAddressObjectIsThatOfTheFirstEntryWithTheAddress(t *testing.T) {
	str := func(ip string) *ipamv1.IPAddressStr { return new(ipamv1.IPAddressStr(ip)) }
	own := entry("10.0.0.2", "10.0.0.9", "")
	own.Prefix, own.Gateway, own.DNSServers = 28, str("10.0.0.1"), []ipamv1.IPAddressStr{"10.0.0.53"}
	pool := servedPool(func(p *ipamv1.IPPool) {
		p.Spec.Gateway, p.Spec.DNSServers = str("10.0.0.254"), []ipamv1.IPAddressStr{"10.0.0.54"}
	}, entry("10.0.0.20", "10.0.0.29", ""), own, entry("10.0.0.8", "10.0.0.30", ""))
	for ip, want := range map[string]ipamv1.IPAddressSpec{
		"10.0.0.20": {Prefix: 24, Gateway: str("10.0.0.254"), DNSServers: []ipamv1.IPAddressStr{"10.0.0.54"}},
		"10.0.0.8":  {Prefix: 28, Gateway: str("10.0.0.1"), DNSServers: []ipamv1.IPAddressStr{"10.0.0.53"}},
		"10.0.0.30": {Prefix: 24, Gateway: str("10.0.0.254"), DNSServers: []ipamv1.IPAddressStr{"10.0.0.54"}},
	} {
		got := addressOf(pool, "cp-0-0", netip.MustParseAddr(ip)).(*ipamv1.IPAddress)
		if got.Spec.Prefix != want.Prefix || *got.Spec.Gateway != *want.Gateway || !slices.Equal(got.Spec.DNSServers, want.DNSServers) {
			t.Errorf("%s: got %+v", ip, got.Spec)
		}
	}
}

func TestTakenAddressHasTheNameThatMetal3GivesIt(t *testing.T) {
	pool := servedPool(asIs)
	for ip, want := range map[string]string{"10.0.0.20": "dkp-10-0-0-20", "fd00::5": "dkp-fd00--5", "fd00::": "dkp-fd00"} {
		obj := addressOf(pool, "cp-0-0", netip.MustParseAddr(ip))
		if obj.GetName() != want {
			t.Errorf("%s: got %q, want %q", ip, obj.GetName(), want)
		}
		if prefix, ok := (Provider{}).NamePrefix(Provider{}.ReadAddress(obj)); !ok || prefix != "dkp" {
			t.Errorf("%s: got prefix %q, %t", ip, prefix, ok)
		}
	}
}

var _ ipam.Used = counts{}
