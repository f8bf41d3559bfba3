package contract

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

func TestPoolIsFullIfItSaysSo(t *testing.T) {
	for name, test := range map[string]struct {
		status map[string]any
		want   bool
	}{
		"none free":            {counts("free", int64(0)), true},
		"fewer than none":      {counts("free", int64(-1)), true},
		"one free":             {counts("free", int64(1)), false},
		"not counted yet":      {nil, false},
		"no word of free":      {counts("total", int64(0)), false},
		"free in words":        {counts("free", "0"), false},
		"counts that are none": {map[string]any{"status": map[string]any{"ipAddresses": int64(0)}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (Provider{}).IsFull(lab(inCluster, test.status)); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// poolWith is a pool with a prefix length, a gateway and a name server.
func poolWith(bits int64, gateway, server string) ipam.Pool {
	object := lab(inCluster, map[string]any{"spec": map[string]any{"prefix": bits, "gateway": gateway}})
	if server != "" {
		object.SetAnnotations(map[string]string{ipam.NameserversAnnotation: server})
	}
	return ipam.Pool{Object: object, Reference: InClusterPool("lab")}
}

func TestPoolGivesWhatItsNetworkDoesNotNeed(t *testing.T) {
	pool := poolWith(24, "10.0.0.254", "10.0.0.53")
	other := ipam.Pool{Object: lab(rangeKind, map[string]any{"spec": map[string]any{"gateway": int64(1), "prefix": "24"}})}
	for name, test := range map[string]struct {
		pool ipam.Pool
		ip   string
		want bool
	}{
		"any other":                                  {pool, "10.0.0.1", true},
		"its gateway":                                {pool, "10.0.0.254", false},
		"its name server":                            {pool, "10.0.0.53", false},
		"its network":                                {pool, "10.0.0.0", false},
		"its broadcast address":                      {pool, "10.0.0.255", false},
		"one of a network of two":                    {poolWith(31, "", ""), "10.0.0.0", true},
		"the end of an IPv6 network":                 {poolWith(120, "", ""), "fd00::ff", true},
		"the routers of an IPv6 network":             {poolWith(120, "", ""), "fd00::", false},
		"any, of a kind with other fields":           {other, "10.0.0.255", true},
		"any, where name servers cannot be read":     {poolWith(24, "", "dns,10.0.0.53"), "10.0.0.53", true},
		"the broadcast address of a larger network":  {poolWith(16, "", ""), "10.0.255.255", false},
		"what would be the end of a smaller network": {poolWith(16, "", ""), "10.0.0.255", true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (Provider{}).Gives(test.pool, netip.MustParseAddr(test.ip)); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestClaimIsReadFromItsConditions(t *testing.T) {
	for name, test := range map[string]struct {
		status, reason, address string
		want                    ipam.Claim
	}{
		"nothing yet":                    {want: ipam.Claim{}},
		"bound":                          {address: "cp-0", want: ipam.Claim{Address: "cp-0"}},
		"bound, and said to have failed": {status: "False", reason: ipamv1.IPAddressClaimReadyAllocationFailedReason, address: "cp-0", want: ipam.Claim{Address: "cp-0"}},
		"exhausted": {status: "False", reason: ipamv1.IPAddressClaimReadyPoolExhaustedReason,
			want: ipam.Claim{Failure: ipamv1.IPAddressClaimReadyPoolExhaustedReason, Exhausted: true}},
		"failed": {status: "False", reason: ipamv1.IPAddressClaimReadyAllocationFailedReason,
			want: ipam.Claim{Failure: ipamv1.IPAddressClaimReadyAllocationFailedReason}},
		"for another reason": {status: "False", reason: "NoLicense", want: ipam.Claim{Waits: "NoLicense"}},
		"ready":              {status: "True", reason: "Ready", want: ipam.Claim{}},
		"not known":          {status: "Unknown", reason: "NoLicense", want: ipam.Claim{}},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPAddressClaim{}
			claim.Spec.PoolRef = ipamv1.IPPoolReference{APIGroup: "g", Kind: "k", Name: "n"}
			claim.Status.AddressRef.Name = test.address
			if test.status != "" {
				meta.SetStatusCondition(&claim.Status.Conditions, metav1.Condition{
					Type: ipamv1.IPAddressClaimReadyCondition, Status: metav1.ConditionStatus(test.status), Reason: test.reason,
				})
			}
			test.want.Object, test.want.Pool = claim, ipam.PoolReference{APIGroup: "g", Kind: "k", Name: "n"}
			if got := (Provider{}).ReadClaim(claim); got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestReasonOfAClaimThatWaitsIsToldWithItsProvider(t *testing.T) {
	pool := ipam.Pool{Reference: wantOf(rangeKind).Pool}
	const want = `its IPAM provider says "NoLicense" on the claim; see the status of the pool and the log of the IPAM controller of ipam.example.com`
	for waits, want := range map[string]string{"": "", "NoLicense": want} {
		if got := (Provider{}).WhyNotBound(t.Context(), nil, pool, ipam.Claim{Waits: waits}); got != want {
			t.Errorf("%q: got %q, want %q", waits, got, want)
		}
	}
}

// What is asked for has to be read as what it is asked by, or the provider would not
// take it for its own.
func TestAddressThatIsAskedForIsThatOfTheBinding(t *testing.T) {
	of := func(pool ipam.PoolReference, address, gateway string) ipam.Binding {
		b := ipam.Binding{Pool: pool, Claim: "cp-0", Address: netip.MustParsePrefix(address)}
		if gateway != "" {
			b.Gateway = netip.MustParseAddr(gateway)
		}
		return b
	}
	for name, b := range map[string]ipam.Binding{
		"with a gateway":      of(wantOf(inCluster).Pool, "10.0.0.1/24", "10.0.0.254"),
		"without":             of(wantOf(inCluster).Pool, "10.0.0.1/24", ""),
		"of all namespaces":   of(wantOf(global).Pool, "10.0.0.1/24", "10.0.0.254"),
		"of IPv6, with /128":  of(wantOf(inCluster).Pool, "fd00::1/128", "fd00::fe"),
		"with other prefixes": of(wantOf(inCluster).Pool, "10.0.0.1/9", "10.0.0.254"),
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Provider{}.Requested("ns", b).(*ipamv1.IPAddress)
			if !ok || got.Namespace != "ns" || got.Name != "cp-0" {
				t.Fatalf("got %+v, want the address ns/cp-0", got)
			}
			pool := ipam.Pool{Object: lab(rangeKind, nil), Reference: b.Pool}
			bound, err := Provider{}.Bind(pool, Provider{}.ReadAddress(got), ipam.Want{Pool: b.Pool})
			if err != nil || bound.Address != b.Address || bound.Gateway != b.Gateway || bound.Claim != b.Claim ||
				(Provider{}).ReadAddress(got).Pool != b.Pool {
				t.Errorf("it is read as %+v with error %v, want %+v", bound, err, b)
			}
		})
	}
}

func TestAddressIsAskedForFromTheInClusterProviderOnly(t *testing.T) {
	for _, test := range []struct {
		pool ipam.PoolReference
		want bool
	}{
		{wantOf(inCluster).Pool, true},
		{wantOf(global).Pool, true},
		{wantOf(rangeKind).Pool, false},
		{ipam.PoolReference{APIGroup: rangeKind.Group, Kind: InClusterKind, Name: "lab"}, false},
		{ipam.PoolReference{APIGroup: inCluster.Group, Kind: "Range", Name: "lab"}, false},
	} {
		got := Provider{}.Requested("ns", ipam.Binding{Pool: test.pool, Claim: "cp-0", Address: netip.MustParsePrefix("10.0.0.1/24")})
		if (Provider{}).CanRequest(test.pool) != test.want || (got != nil) != test.want {
			t.Errorf("%s: got %v, want one: %v", test.pool, got, test.want)
		}
	}
}

func TestAnswerThatADeviceCannotHaveIsRefused(t *testing.T) {
	pool := poolWith(24, "", "")
	crowded, misled := poolWith(24, "", ""), poolWith(24, "", "dns")
	crowded.SetAnnotations(map[string]string{ipam.NameserversAnnotation: strings.Repeat("10.0.0.53,", 129)})
	for name, test := range map[string]struct {
		pool   ipam.Pool
		change func(*ipamv1.IPAddressSpec)
		reason ipam.Reason
		want   string
	}{
		"no address":                    {pool, func(a *ipamv1.IPAddressSpec) { a.Address = "nonsense" }, ipam.InvalidAddress, "it is not an IP address"},
		"an empty address":              {pool, func(a *ipamv1.IPAddressSpec) { a.Address = "" }, ipam.InvalidAddress, "it is not an IP address"},
		"an address with its prefix":    {pool, func(a *ipamv1.IPAddressSpec) { a.Address = "10.0.0.3/24" }, ipam.InvalidAddress, "it is not an IP address"},
		"no prefix":                     {pool, func(a *ipamv1.IPAddressSpec) { a.Prefix = nil }, ipam.InvalidAddress, "its prefix length is 0, which must be 1 to 32"},
		"a prefix of nothing":           {pool, func(a *ipamv1.IPAddressSpec) { a.Prefix = new(int32(0)) }, ipam.InvalidAddress, "its prefix length is 0, which must be 1 to 32"},
		"a prefix of IPv6":              {pool, func(a *ipamv1.IPAddressSpec) { a.Prefix = new(int32(33)) }, ipam.InvalidAddress, "its prefix length is 33, which must be 1 to 32"},
		"a prefix beyond IPv6":          {pool, func(a *ipamv1.IPAddressSpec) { a.Address, a.Prefix = "fd00::3", new(int32(129)) }, ipam.InvalidAddress, "its prefix length is 129, which must be 1 to 128"},
		"a gateway that is none":        {pool, func(a *ipamv1.IPAddressSpec) { a.Gateway = "x" }, ipam.InvalidAddress, `its gateway "x" is not an IP address`},
		"a gateway of the other family": {pool, func(a *ipamv1.IPAddressSpec) { a.Gateway = "fd00::fe" }, ipam.InvalidAddress, "its gateway fd00::fe is of the other family"},
		"an address too long to be kept": {pool, func(a *ipamv1.IPAddressSpec) {
			a.Address, a.Prefix, a.Gateway = "fd00:1111:2222:3333:4444:5555:6666:7777", new(int32(64)), ""
		}, ipam.InvalidAddress, "longer than the 39 characters"},
		"a gateway too long to be kept": {pool, func(a *ipamv1.IPAddressSpec) { a.Address, a.Gateway = "fd00::3", "fe80::1%"+strings.Repeat("x", 60) }, ipam.InvalidAddress, "its gateway is longer than the 64 characters"},
		"too many name servers":         {crowded, nil, ipam.PoolInvalid, "has 129 name servers"},
		"name servers that are none":    {misled, nil, ipam.PoolInvalid, "has an invalid annotation capv-static-ip.dev/nameservers"},
	} {
		t.Run(name, func(t *testing.T) {
			address := &ipamv1.IPAddress{Spec: ipamv1.IPAddressSpec{Address: "10.0.0.3", Prefix: new(int32(24)), Gateway: "10.0.0.254"}}
			if test.change != nil {
				test.change(&address.Spec)
			}
			got, err := Provider{}.Bind(test.pool, Provider{}.ReadAddress(address), ipam.Want{Pool: test.pool.Reference})
			refusal, ok := ipam.AsRefusal(err)
			if !ok || refusal.Reason != test.reason || !strings.Contains(refusal.Message, test.want) {
				t.Errorf("got %+v and %v, want a refusal %s with %q", got, err, test.reason, test.want)
			}
		})
	}
}

func TestBindingHasAllThatTheAnswerAndThePoolSay(t *testing.T) {
	pool := poolWith(24, "10.0.0.254", "10.0.0.53, 10.0.0.54")
	pool.SetAnnotations(map[string]string{ipam.NameserversAnnotation: "10.0.0.53, 10.0.0.54", ipam.SearchDomainsAnnotation: "a.example,b.example"})
	// What is mapped into IPv6 is IPv4, as CAPV reads it.
	address := taken("ns", "cp-0", inCluster)
	address.Spec.Address, address.Spec.Prefix, address.Spec.Gateway = "::ffff:10.0.0.3", new(int32(24)), "10.0.0.254"
	want := ipam.Binding{
		Device: ipam.Device{Index: 1, NetworkName: "lan"}, Pool: pool.Reference, Claim: "cp-0",
		Address: netip.MustParsePrefix("10.0.0.3/24"), Gateway: netip.MustParseAddr("10.0.0.254"),
		Nameservers: []string{"10.0.0.53", "10.0.0.54"}, SearchDomains: []string{"a.example", "b.example"},
	}

	got, err := Provider{}.Bind(pool, Provider{}.ReadAddress(address), ipam.Want{Ask: ipam.Ask{Device: want.Device}, Pool: want.Pool})

	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v and error %v\nwant %+v", got, err, want)
	}
}

func TestAddressThatItsNetworkNeedsIsSetAside(t *testing.T) {
	pool := poolWith(24, "", "10.0.0.53")
	for ip, want := range map[string]ipam.UnfitCause{
		"10.0.0.254": ipam.IsGateway, "10.0.0.53": ipam.IsNameserver, "10.0.0.0": ipam.IsNetworkAddress, "10.0.0.255": ipam.IsBroadcast,
	} {
		address := &ipamv1.IPAddress{Spec: ipamv1.IPAddressSpec{Address: ip, Prefix: new(int32(24)), Gateway: "10.0.0.254"}}
		_, err := Provider{}.Bind(pool, Provider{}.ReadAddress(address), ipam.Want{Pool: pool.Reference})
		var unfit *ipam.Unfit
		if !errors.As(err, &unfit) || unfit.Cause != want || unfit.IP != netip.MustParseAddr(ip) {
			t.Errorf("%s: got %v, want it to be set aside as %s", ip, err, want)
		}
	}
}

func TestFinalizersOfProvidersAreTheirOwn(t *testing.T) {
	for finalizers, want := range map[string]bool{
		"":                                     true,
		"ipam.cluster.x-k8s.io/ReleaseAddress": true,
		"ipam.cluster.x-k8s.io/ReleaseAddress,ipam.cluster.x-k8s.io/Protect": true,
		"ipam.cluster.x-k8s.io/ReleaseAddress,capv-static-ip.dev/in-use":     false,
		"ipam.cluster.x-k8s.io.example.org/x":                                false,
		"ipam.metal3.io/ipaddressclaim":                                      false,
	} {
		claim := &ipamv1.IPAddressClaim{}
		if finalizers != "" {
			claim.Finalizers = strings.Split(finalizers, ",")
		}
		if got := (Provider{}).HasOnlyOwnFinalizers(claim); got != want {
			t.Errorf("%s: got %v, want %v", finalizers, got, want)
		}
	}
}

// A pool is watched in one version: in others it is read from the API server, as are
// those of kinds that nobody knows.
func TestPoolIsWatchedInTheVersionThatIsKnown(t *testing.T) {
	old := inCluster.GroupKind().WithVersion("v1alpha1")
	older := meta.NewDefaultRESTMapper([]schema.GroupVersion{old.GroupVersion()})
	older.Add(old, meta.RESTScopeNamespace)
	for name, test := range map[string]struct {
		mapper  meta.RESTMapper
		kind    schema.GroupKind
		version string
		watched bool
	}{
		"an InClusterIPPool":      {kinds(), inCluster.GroupKind(), "v1alpha2", true},
		"a GlobalInClusterIPPool": {kinds(), global.GroupKind(), "v1alpha2", true},
		"another kind":            {kinds(), rangeKind.GroupKind(), "v1", false},
		"one in an older version": {older, inCluster.GroupKind(), "v1alpha1", false},
	} {
		t.Run(name, func(t *testing.T) {
			mapping, watched, err := Provider{Mapper: test.mapper}.mapping(test.kind)
			if err != nil || mapping.GroupVersionKind != test.kind.WithVersion(test.version) || watched != test.watched {
				t.Errorf("got %v, watched: %v, and error %v, want %s, watched: %v", mapping, watched, err, test.version, test.watched)
			}
		})
	}
}

func TestPoolThatIsNotWatchedIsReadFromTheServer(t *testing.T) {
	for _, test := range []struct {
		kind    schema.GroupVersionKind
		watched bool
	}{{inCluster, true}, {global, true}, {rangeKind, false}} {
		// Who asks the wrong one asks nobody.
		var cached, live client.Reader
		if c := server(t, lab(test.kind, nil)); test.watched {
			cached = c
		} else {
			live = c
		}
		pool, err := Provider{Mapper: kinds(), Live: live}.Pool(t.Context(), cached, aMachine, wantOf(test.kind))
		if err != nil || pool.Watched != test.watched || !pool.Silent || pool.GetName() != "lab" {
			t.Errorf("%s: got %+v and error %v, want the pool, watched: %v", test.kind.Kind, pool, err, test.watched)
		}
	}
}

func TestClaimAPIIsReadInTheVersionThatIsServed(t *testing.T) {
	served := func(versions ...string) meta.RESTMapper {
		mapper := meta.NewDefaultRESTMapper(nil)
		for _, version := range versions {
			mapper.Add(schema.GroupVersionKind{Group: ipamv1.GroupVersion.Group, Version: version, Kind: "IPAddressClaim"}, meta.RESTScopeNamespace)
		}
		return mapper
	}
	for want, mappers := range map[string][]meta.RESTMapper{
		"v1beta2": {served("v1beta2"), served("v1beta2", "v1beta1"), served(), served("v1alpha1")},
		"v1beta1": {served("v1beta1"), served("v1beta1", "v1alpha1")},
	} {
		for i, mapper := range mappers {
			scheme := runtime.NewScheme()
			if err := AddToScheme(scheme, mapper); err != nil {
				t.Fatal(err)
			}
			got, _, err := scheme.ObjectKinds(&ipamv1.IPAddressClaim{})
			if err != nil || len(got) != 1 || got[0].Version != want {
				t.Errorf("%s, %d: got %v and error %v", want, i, got, err)
			}
		}
	}
	failure := errors.New("no answer")
	if err := AddToScheme(runtime.NewScheme(), unknowing{failure: failure}); !errors.Is(err, failure) {
		t.Errorf("got error %v, want %v", err, failure)
	}
}

func TestNewClaimHasTheFinalizerOfAnInClusterProviderThatServesThePool(t *testing.T) {
	protects := []string{"ipam.cluster.x-k8s.io/ProtectPool"}
	counted := map[string]any{"status": map[string]any{"ipAddresses": map[string]any{"free": int64(1)}}}
	served, copied, old := &unstructured.Unstructured{Object: counted}, &unstructured.Unstructured{}, &unstructured.Unstructured{}
	served.SetFinalizers(protects)
	copied.SetFinalizers(protects)
	old.Object = map[string]any{"status": counted["status"]}
	other := ipam.PoolReference{APIGroup: "ipam.example.com", Kind: "Range", Name: "p"}
	for name, test := range map[string]struct {
		reference ipam.PoolReference
		pool      client.Object
		want      []string
	}{
		"a pool that it protects and counts": {InClusterPool("p"), served, []string{"ipam.cluster.x-k8s.io/ReleaseAddress"}},
		"a copy of one, without its status":  {InClusterPool("p"), copied, nil},
		"a pool of before it protected any":  {InClusterPool("p"), old, nil},
		"a pool that it has not looked at":   {InClusterPool("p"), &unstructured.Unstructured{}, nil},
		"a pool that is not known, as it is": {InClusterPool("p"), nil, nil},
		"a pool of another provider":         {other, served, nil},
	} {
		t.Run(name, func(t *testing.T) {
			claim := Provider{}.NewClaim(ipam.ClaimSpec{Name: "cp-0", Pool: test.reference, PoolObject: test.pool})
			if got := claim.GetFinalizers(); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
