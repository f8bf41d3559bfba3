package metal3

import (
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

func entry(start, end, subnet string) ipamv1.Pool {
	var e ipamv1.Pool
	if start != "" {
		e.Start = new(ipamv1.IPAddressStr(start))
	}
	if end != "" {
		e.End = new(ipamv1.IPAddressStr(end))
	}
	if subnet != "" {
		e.Subnet = new(ipamv1.IPSubnetStr(subnet))
	}
	return e
}

func poolOf(entries ...ipamv1.Pool) *ipamv1.IPPool {
	return &ipamv1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"},
		Spec:       ipamv1.IPPoolSpec{Pools: entries},
	}
}

// The ranges have to be those that metal3 itself walks through, so its own
// function is the judge.
func TestRangesAreThoseThatMetal3HandsOut(t *testing.T) {
	for _, e := range []ipamv1.Pool{
		entry("10.0.0.1", "10.0.0.6", ""),
		entry("10.0.0.1", "10.0.0.1", ""),
		entry("10.0.0.6", "10.0.0.1", ""),
		entry("10.0.0.250", "10.0.1.20", "10.0.0.0/24"),
		entry("10.0.0.250", "", "10.0.0.0/24"),
		entry("10.0.9.1", "10.0.9.5", "10.0.0.0/24"),
		entry("", "", "10.0.0.0/29"),
		entry("", "", "10.0.0.4/29"),
		entry("", "", "10.0.0.0/32"),
		entry("fd00::fffe", "fd00::1:3", ""),
		entry("", "", "fd00::/125"),
		entry("", "", ""),
	} {
		var want []string
		for i := 0; ; i++ {
			address, err := ipamv1.GetIPAddress(e, i)
			if err != nil {
				break
			}
			want = append(want, string(address))
		}
		set := rangesOf(poolOf(e))
		if size(set) != uint64(len(want)) {
			t.Errorf("%s-%s in %s: got %d addresses, metal3 hands out %d", text(e.Start), text(e.End), text(e.Subnet), size(set), len(want))
		}
		for _, address := range want {
			if !set.Contains(netip.MustParseAddr(address)) {
				t.Errorf("%s-%s in %s: metal3 hands out %s, which is not in the set", text(e.Start), text(e.End), text(e.Subnet), address)
			}
		}
	}
}

func text[T ~string](s *T) string {
	if s == nil {
		return ""
	}
	return string(*s)
}

func TestRangesOfNonsenseAreEmpty(t *testing.T) {
	for _, e := range []ipamv1.Pool{
		entry("x", "10.0.0.6", ""), entry("10.0.0.1", "x", ""), entry("", "", "x"), entry("10.0.0.1", "fd00::1", ""),
	} {
		if n := size(rangesOf(poolOf(e))); n != 0 {
			t.Errorf("%s-%s in %s has %d addresses", text(e.Start), text(e.End), text(e.Subnet), n)
		}
	}
}

func TestSizeOfHugePoolsDoesNotOverflow(t *testing.T) {
	huge := poolOf(entry("", "", "fd00::/64"), entry("", "", "fd01::/65"))
	if n := size(rangesOf(huge)); n != math.MaxUint64 {
		t.Errorf("got %d", n)
	}
}

func TestFreeAddresses(t *testing.T) {
	pool := poolOf(entry("10.0.0.1", "10.0.0.4", ""), entry("10.0.0.4", "10.0.0.6", ""))
	pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"reserved-0": "10.0.0.6"}
	addr := netip.MustParseAddr
	tests := map[string]struct {
		used         []netip.Addr
		claims       []string
		free, needed uint64
	}{
		"all but the reserved one":          {nil, []string{"a-0"}, 5, 1},
		"used up":                           {[]netip.Addr{addr("10.0.0.1"), addr("10.0.0.2"), addr("10.0.0.3"), addr("10.0.0.4"), addr("10.0.0.5")}, []string{"a-0"}, 0, 1},
		"used outside the ranges":           {[]netip.Addr{addr("10.9.0.1"), addr("10.9.0.2"), addr("10.9.0.3"), addr("10.9.0.4"), addr("10.9.0.5")}, []string{"a-0"}, 5, 1},
		"the reserved one needs no other":   {nil, []string{"reserved-0"}, 5, 0},
		"the reserved one in use":           {[]netip.Addr{addr("10.0.0.6")}, []string{"a-0", "a-1", "a-2", "a-3", "a-4"}, 5, 5},
		"more than there are, counted once": {[]netip.Addr{addr("10.0.0.1"), addr("10.0.0.6")}, []string{"a-0", "a-1", "a-2", "a-3", "a-4"}, 4, 5},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if free, needed := freeOf(pool, listed(test.used))(test.claims); free != test.free || needed != test.needed {
				t.Errorf("got %d free and %d needed, want %d and %d", free, needed, test.free, test.needed)
			}
		})
	}
}

func answerOf(change func(*ipamv1.IPAddressSpec)) ipam.Address {
	address := &ipamv1.IPAddress{Spec: ipamv1.IPAddressSpec{
		Address: "10.0.0.3", Prefix: 24, Gateway: new(ipamv1.IPAddressStr("10.0.0.254")),
		DNSServers: []ipamv1.IPAddressStr{"10.0.0.53"},
	}}
	address.Spec.Claim.Name = "cp-0"
	if change != nil {
		change(&address.Spec)
	}
	return Provider{}.ReadAddress(address)
}

func TestBindTakesEverythingFromTheAnswer(t *testing.T) {
	pool := poolOf(entry("10.0.0.1", "10.0.0.6", ""))
	pool.Annotations = map[string]string{ipam.SearchDomainsAnnotation: "a.example, b.example,"}
	want := ipam.Want{Ask: ipam.Ask{Device: ipam.Device{Index: 1}}, Pool: PoolNamed("pool")}

	got, err := Provider{}.Bind(ipam.Pool{Object: pool}, answerOf(nil), want)
	if err != nil {
		t.Fatal(err)
	}
	if got.Address != netip.MustParsePrefix("10.0.0.3/24") || got.Gateway != netip.MustParseAddr("10.0.0.254") ||
		strings.Join(got.Nameservers, " ") != "10.0.0.53" || strings.Join(got.SearchDomains, " ") != "a.example b.example" ||
		got.Claim != "cp-0" || got.Device.Index != 1 || got.Pool != want.Pool {
		t.Errorf("got %+v", got)
	}
}

func TestBindRefusesGarbage(t *testing.T) {
	pool := ipam.Pool{Object: poolOf(entry("10.0.0.1", "10.0.0.6", ""), entry("fd00::1", "fd00::6", ""))}
	for wanted, change := range map[string]func(*ipamv1.IPAddressSpec){
		`it is not an IP address`:                        func(a *ipamv1.IPAddressSpec) { a.Address = "nonsense" },
		`it is outside the pool's ranges`:                func(a *ipamv1.IPAddressSpec) { a.Address = "10.9.9.9" },
		`its prefix length is 0, which must be 1 to 32`:  func(a *ipamv1.IPAddressSpec) { a.Prefix = 0 },
		`its prefix length is 64, which must be 1 to 32`: func(a *ipamv1.IPAddressSpec) { a.Prefix = 64 },
		`its gateway "x" is not an IP address`:           func(a *ipamv1.IPAddressSpec) { a.Gateway = new(ipamv1.IPAddressStr("x")) },
		`its gateway fd00::1 is of the other family`:     func(a *ipamv1.IPAddressSpec) { a.Gateway = new(ipamv1.IPAddressStr("fd00::1")) },
		`its gateway 10.0.0.254 is of the other family`:  func(a *ipamv1.IPAddressSpec) { a.Address = "fd00::2" },
	} {
		_, err := Provider{}.Bind(pool, answerOf(change), ipam.Want{Pool: PoolNamed("pool")})
		refusal, ok := ipam.AsRefusal(err)
		if !ok || refusal.Reason != ipam.InvalidAddress || !strings.Contains(refusal.Message, wanted) {
			t.Errorf("got %v, want a refusal with %q", err, wanted)
		}
	}
}

func TestAddressThatItsNetworkNeedsIsSetAside(t *testing.T) {
	pool := ipam.Pool{Object: poolOf(entry("10.0.0.0", "10.0.0.255", ""))}
	for ip, want := range map[string]ipam.UnfitCause{
		"10.0.0.254": ipam.IsGateway, "10.0.0.53": ipam.IsNameserver, "10.0.0.0": ipam.IsNetworkAddress, "10.0.0.255": ipam.IsBroadcast,
	} {
		_, err := Provider{}.Bind(pool, answerOf(func(a *ipamv1.IPAddressSpec) { a.Address = ipamv1.IPAddressStr(ip) }), ipam.Want{Pool: PoolNamed("pool")})
		var unfit *ipam.Unfit
		if !errors.As(err, &unfit) || unfit.Cause != want || unfit.IP != netip.MustParseAddr(ip) {
			t.Errorf("%s: got %v, want it to be set aside as %s", ip, err, want)
		}
	}
}

// metal3 hands out what is left, of whatever family. There may be a network full of
// them, so that they are not set aside.
func TestAddressOfAPoolsSecondFamilyIsRefused(t *testing.T) {
	pool := ipam.Pool{Object: poolOf(entry("10.0.0.1", "10.0.0.6", ""), entry("fd00::1", "fd00::6", ""))}
	_, err := Provider{}.Bind(pool, answerOf(func(a *ipamv1.IPAddressSpec) { a.Address, a.Prefix, a.Gateway = "fd00::2", 64, nil }), ipam.Want{Pool: PoolNamed("pool")})
	refusal, ok := ipam.AsRefusal(err)
	if unfit := (*ipam.Unfit)(nil); !ok || refusal.Reason != ipam.PoolExhausted || errors.As(err, &unfit) {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestClaimIsReadFromItsStatus(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ipamv1.IPClaimStatus)
		want   ipam.Claim
	}{
		"nothing yet": {func(*ipamv1.IPClaimStatus) {}, ipam.Claim{}},
		"bound":       {func(s *ipamv1.IPClaimStatus) { s.Address = &corev1.ObjectReference{Name: "pool-10-0-0-1"} }, ipam.Claim{Address: "pool-10-0-0-1"}},
		"exhausted":   {func(s *ipamv1.IPClaimStatus) { s.ErrorMessage = new("Exhausted IP Pools") }, ipam.Claim{Failure: "Exhausted IP Pools", Exhausted: true}},
		"failed":      {func(s *ipamv1.IPClaimStatus) { s.ErrorMessage = new("Requested IP not available") }, ipam.Claim{Failure: "Requested IP not available"}},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPClaim{}
			claim.Spec.Pool.Name = "pool"
			test.change(&claim.Status)
			test.want.Object, test.want.Pool = claim, PoolNamed("pool")
			if got := (Provider{}).ReadClaim(claim); got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestNewClaimIsReadAsWhatItIsFor(t *testing.T) {
	obj := Provider{}.NewClaim(ipam.ClaimSpec{Name: "cp-0", Machine: ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp"}}, Pool: PoolNamed("pool")})
	Provider{}.Request(obj, netip.MustParseAddr("10.0.0.3"))
	got := Provider{}.ReadClaim(obj)
	if got.Pool != PoolNamed("pool") || got.GetName() != "cp-0" || got.GetNamespace() != "ns" || got.GetAnnotations()[RequestAnnotation] != "10.0.0.3" {
		t.Errorf("got %+v", got)
	}
}

func TestNewClaimHasMetal3sFinalizerWhereMetal3ServesThePool(t *testing.T) {
	protected := metav1.ObjectMeta{Finalizers: []string{ipamv1.IPPoolFinalizer}}
	served := &ipamv1.IPPool{ObjectMeta: protected, Status: ipamv1.IPPoolStatus{LastUpdated: &metav1.Time{}}}
	for name, test := range map[string]struct {
		pool client.Object
		want []string
	}{
		"a pool that metal3 has looked at":   {served, []string{ipamv1.IPClaimFinalizer}},
		"a copy of one, without its status":  {&ipamv1.IPPool{ObjectMeta: protected}, nil},
		"a pool that it has not looked at":   {&ipamv1.IPPool{}, nil},
		"a pool that is not known, as it is": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			claim := Provider{}.NewClaim(ipam.ClaimSpec{Name: "cp-0", Pool: PoolNamed("pool"), PoolObject: test.pool})
			if got := claim.GetFinalizers(); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestFinalizersOfMetal3AreItsOwn(t *testing.T) {
	own := []string{ipamv1.IPClaimFinalizer, ipamv1.IPAddressFinalizer, "ipam.metal3.io/ipaddress", "ipam.metal3.io/ipaddressclaim"}
	for _, test := range []struct {
		finalizers []string
		want       bool
	}{
		{nil, true}, {own, true}, {append(slices.Clone(own), ipam.InUseFinalizer), false}, {[]string{"ipam.metal3.io/other"}, false},
	} {
		claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Finalizers: test.finalizers}}
		if got := (Provider{}).HasOnlyOwnFinalizers(claim); got != test.want {
			t.Errorf("%v: got %v, want %v", test.finalizers, got, test.want)
		}
	}
}
