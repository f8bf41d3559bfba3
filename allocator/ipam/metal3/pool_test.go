package metal3

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/faults"
)

// server is an API server with these objects.
func server(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(ipamv1.AddToScheme(scheme), capiipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, nil)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

// taken is an address of a pool, handed to an IPClaim.
func taken(namespace, pool, ip string) *ipamv1.IPAddress {
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pool + "-" + strings.ReplaceAll(ip, ":", "-")}}
	address.Spec.Pool.Name, address.Spec.Address = pool, ipamv1.IPAddressStr(ip)
	return address
}

// takenByTwin is one that was handed to an IPAddressClaim.
func takenByTwin(pool, ip string) *capiipamv1.IPAddress {
	address := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: pool + "-" + ip}}
	address.Spec.PoolRef.Name, address.Spec.Address = pool, ip
	return address
}

func poolWith(change func(*ipamv1.IPPoolSpec), entries ...ipamv1.Pool) *ipamv1.IPPool {
	pool := poolOf(entries...)
	change(&pool.Spec)
	return pool
}

var (
	aMachine = ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp"}}
	aWant    = ipam.Want{Pool: PoolNamed("pool"), Ask: ipam.Ask{AskedBy: "label x of y"}}
)

func TestRoomOfAPool(t *testing.T) {
	leaving := taken("ns", "pool", "10.0.0.1")
	leaving.DeletionTimestamp, leaving.Finalizers = &metav1.Time{Time: time.Now()}, []string{ipam.InUseFinalizer}
	six := func(change func(*ipamv1.IPPoolSpec)) *ipamv1.IPPool {
		return poolWith(change, entry("10.0.0.1", "10.0.0.6", ""))
	}
	reserving := func(ip string) *ipamv1.IPPool {
		return six(func(s *ipamv1.IPPoolSpec) {
			s.PreAllocations = map[string]ipamv1.IPAddressStr{"cp-0": ipamv1.IPAddressStr(ip)}
		})
	}
	plain := six(func(*ipamv1.IPPoolSpec) {})
	full := []client.Object{
		taken("ns", "pool", "10.0.0.1"), taken("ns", "pool", "10.0.0.2"), taken("ns", "pool", "10.0.0.3"), taken("ns", "pool", "10.0.0.4"), taken("ns", "pool", "10.0.0.5"),
	}
	type room struct{ total, free, needed uint64 }
	for name, test := range map[string]struct {
		pool      *ipamv1.IPPool
		addresses []client.Object
		want      room
	}{
		"none is used":         {plain, nil, room{6, 6, 2}},
		"one is used":          {plain, []client.Object{taken("ns", "pool", "10.0.0.1")}, room{6, 5, 2}},
		"one is being deleted": {plain, []client.Object{leaving}, room{6, 5, 2}},
		"one is used by a claim of the other API": {plain, []client.Object{takenByTwin("pool", "10.0.0.1")}, room{6, 5, 2}},
		"one by each":                              {plain, []client.Object{takenByTwin("pool", "10.0.0.1"), taken("ns", "pool", "10.0.0.2")}, room{6, 4, 2}},
		"one of another pool":                      {plain, []client.Object{taken("ns", "other", "10.0.0.1"), takenByTwin("other", "10.0.0.1")}, room{6, 6, 2}},
		"one in another namespace":                 {plain, []client.Object{taken("other", "pool", "10.0.0.1")}, room{6, 6, 2}},
		"one of an in-cluster pool of that name":   {plain, []client.Object{takenByTwin("pool", "10.9.0.1")}, room{6, 6, 2}},
		"one that is no address":                   {plain, []client.Object{taken("ns", "pool", "nonsense"), takenByTwin("pool", "nonsense")}, room{6, 6, 2}},
		"all but one are used":                     {plain, full, room{6, 1, 2}},
		"one is reserved for the first claim":      {reserving("10.0.0.6"), nil, room{6, 5, 1}},
		"one is reserved, and all others are used": {reserving("10.0.0.6"), full, room{6, 0, 1}},
		"what is reserved is no address":           {reserving("nonsense"), full, room{6, 1, 1}},
		"what is reserved is none of the pool's":   {reserving("10.9.0.1"), full, room{6, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			c := server(t, append(test.addresses, test.pool.DeepCopy())...)
			pool, err := Provider{}.Pool(t.Context(), c, aMachine, aWant)
			if err != nil {
				t.Fatal(err)
			}
			got := room{total: pool.Total}
			got.free, got.needed = pool.Free([]string{"cp-0", "cp-1"})
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// What is left out is set aside when metal3 hands it out.
func TestRoomIsWithoutWhatTheNetworkNeeds(t *testing.T) {
	str := func(ip string) *ipamv1.IPAddressStr { return new(ipamv1.IPAddressStr(ip)) }
	// sixteen is a pool of 10.0.0.0 to 10.0.0.15 in a network of as many.
	sixteen := func(change func(*ipamv1.IPPoolSpec)) *ipamv1.IPPool {
		return poolWith(func(s *ipamv1.IPPoolSpec) { s.Prefix = 28; change(s) }, entry("10.0.0.0", "10.0.0.15", ""))
	}
	nothing := func(*ipamv1.IPPoolSpec) {}
	for name, test := range map[string]struct {
		pool   *ipamv1.IPPool
		total  uint64
		gives  []string
		denies []string
	}{
		"its ends": {sixteen(nothing), 14, []string{"10.0.0.1", "10.0.0.14", "10.9.9.9"}, []string{"10.0.0.0", "10.0.0.15"}},
		"its ends, not those of a larger network": {sixteen(func(s *ipamv1.IPPoolSpec) { s.Prefix = 24 }), 15, []string{"10.0.0.15"}, []string{"10.0.0.0"}},
		"its gateway":                          {sixteen(func(s *ipamv1.IPPoolSpec) { s.Gateway = str("10.0.0.1") }), 13, []string{"10.0.0.2"}, []string{"10.0.0.1"}},
		"its name servers":                     {sixteen(func(s *ipamv1.IPPoolSpec) { s.DNSServers = []ipamv1.IPAddressStr{"10.0.0.2", "10.0.0.3", "x"} }), 12, []string{"10.0.0.4"}, []string{"10.0.0.2", "10.0.0.3"}},
		"the gateway of an entry, not its own": {sixteen(func(s *ipamv1.IPPoolSpec) { s.Gateway, s.Pools[0].Gateway = str("10.0.0.1"), str("10.0.0.5") }), 13, []string{"10.0.0.1"}, []string{"10.0.0.5"}},
		"the name servers of an entry": {sixteen(func(s *ipamv1.IPPoolSpec) {
			s.DNSServers, s.Pools[0].DNSServers = []ipamv1.IPAddressStr{"10.0.0.2", "10.0.0.3"}, []ipamv1.IPAddressStr{"10.0.0.6"}
		}), 13, []string{"10.0.0.2", "10.0.0.3"}, []string{"10.0.0.6"}},
		"the ends by the prefix of an entry": {sixteen(func(s *ipamv1.IPPoolSpec) { s.Pools[0].Prefix = 31 }), 16, []string{"10.0.0.0", "10.0.0.15"}, nil},
		"entries that overlap": {poolWith(func(s *ipamv1.IPPoolSpec) { s.Prefix = 24 }, entry("10.0.0.1", "10.0.0.4", ""), entry("10.0.0.3", "10.0.0.6", "")),
			6, []string{"10.0.0.3"}, nil},
		"the gateway of one entry in another": {poolWith(func(s *ipamv1.IPPoolSpec) { s.Prefix = 24; s.Pools[0].Gateway = str("10.0.0.9") }, entry("10.0.0.1", "10.0.0.4", ""), entry("10.0.0.8", "10.0.0.9", "")),
			5, []string{"10.0.0.8"}, []string{"10.0.0.9"}},
		"all of the second family": {poolWith(func(s *ipamv1.IPPoolSpec) { s.Prefix = 24 }, entry("10.0.0.1", "10.0.0.2", ""), entry("fd00::1", "fd00::9", "")),
			2, []string{"10.0.0.1", "fd01::1"}, []string{"fd00::1"}},
		"a subnet alone": {poolWith(func(s *ipamv1.IPPoolSpec) { s.Prefix = 29 }, entry("", "", "10.0.0.0/29")), 6, []string{"10.0.0.1"}, []string{"10.0.0.7"}},
		"no ranges":      {poolWith(nothing), 0, []string{"10.0.0.1"}, nil},
		"no prefix":      {poolWith(nothing, entry("10.0.0.0", "10.0.0.1", "")), 2, []string{"10.0.0.0"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			pool, err := Provider{}.Pool(t.Context(), server(t, test.pool), aMachine, aWant)
			if err != nil || pool.Total != test.total {
				t.Errorf("got a total of %d and error %v, want %d", pool.Total, err, test.total)
			}
			for _, ip := range test.gives {
				if !(Provider{}).Gives(ipam.Pool{Object: test.pool}, netip.MustParseAddr(ip)) {
					t.Errorf("it does not give %s", ip)
				}
			}
			for _, ip := range test.denies {
				if (Provider{}).Gives(ipam.Pool{Object: test.pool}, netip.MustParseAddr(ip)) {
					t.Errorf("it gives %s", ip)
				}
			}
		})
	}
}

func TestSizeOfARangeThatNoNumberHoldsIsTheGreatest(t *testing.T) {
	if n := size(rangesOf(poolOf(entry("fd00::", "", "fd00::/56")))); n != math.MaxUint64 {
		t.Errorf("got %d", n)
	}
}

func TestPoolThatCannotServeIsRefused(t *testing.T) {
	const name = `IPPool "pool" in namespace "ns"`
	ranges := entry("10.0.0.1", "10.0.0.6", "")
	terminating := poolOf(ranges)
	terminating.DeletionTimestamp, terminating.Finalizers = &metav1.Time{Time: time.Now()}, []string{"example.org/hold"}
	of := func(cluster string) *ipamv1.IPPool {
		return poolWith(func(s *ipamv1.IPPoolSpec) { s.ClusterName = &cluster }, ranges)
	}
	pausedItself := of("dkp")
	pausedItself.Annotations = map[string]string{clusterv1.PausedAnnotation: ""}
	servers := make([]ipamv1.IPAddressStr, 129)
	crowded := poolWith(func(s *ipamv1.IPPoolSpec) { s.DNSServers = servers }, ranges)
	crowdedEntry := poolWith(func(s *ipamv1.IPPoolSpec) { s.Pools[0].DNSServers = servers }, ranges)
	talkative := poolOf(ranges)
	talkative.Annotations = map[string]string{ipam.SearchDomainsAnnotation: strings.Repeat("x", 1025)}
	cluster := func(name string, paused bool) client.Object {
		c := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
		c.Spec.Paused = &paused
		return c
	}
	for title, test := range map[string]struct {
		objects []client.Object
		reason  ipam.Reason
		text    string
	}{
		"none":                  {nil, ipam.PoolNotFound, `IPPool "pool" not found in namespace "ns", asked for by label x of y: create the pool`},
		"being deleted":         {[]client.Object{terminating}, ipam.PoolTerminating, name + " is being deleted: name another pool in label x of y"},
		"no Cluster":            {[]client.Object{of("nowhere")}, ipam.PoolNotServed, name + ` is not served: its spec.clusterName is "nowhere", and that Cluster does not exist`},
		"paused Cluster":        {[]client.Object{of("stopped"), cluster("stopped", true)}, ipam.PoolNotServed, name + ` is not served: it or its Cluster "stopped" is paused`},
		"paused":                {[]client.Object{pausedItself, cluster("dkp", false)}, ipam.PoolNotServed, name + ` is not served: it or its Cluster "dkp" is paused`},
		"name servers":          {[]client.Object{crowded}, ipam.PoolInvalid, name + " has 129 name servers"},
		"name servers of entry": {[]client.Object{crowdedEntry}, ipam.PoolInvalid, name + " has 129 name servers"},
		"search domain":         {[]client.Object{talkative}, ipam.PoolInvalid, name + " has a search domain that is longer"},
	} {
		t.Run(title, func(t *testing.T) {
			_, err := Provider{}.Pool(t.Context(), server(t, test.objects...), aMachine, aWant)
			refusal, ok := ipam.AsRefusal(err)
			if !ok || refusal.Reason != test.reason || !strings.HasPrefix(refusal.Message, test.text) {
				t.Errorf("got %v, want a refusal %s with %q", err, test.reason, test.text)
			}
		})
	}
}

func TestPoolThatIsMissingIsNamedWithWhatElseWasMeant(t *testing.T) {
	absent, notServed := server(t), faults.Failing[*ipamv1.IPPool](server(t), &meta.NoKindMatchError{})
	for name, test := range map[string]struct {
		reader client.Reader
		others []string
		want   string
	}{
		"one kind": {absent, nil, `IPPool "pool" not found in namespace "ns", asked for by label x of y: create the pool or correct its name there`},
		"two kinds": {absent, []string{"InClusterIPPool"},
			`no IPPool and no InClusterIPPool "pool" can be used in namespace "ns", asked for by label x of y: create the one that you mean or correct its name there`},
		"three kinds": {absent, []string{"InClusterIPPool", "Range"},
			`no IPPool and no InClusterIPPool and no Range "pool" can be used in namespace "ns", asked for by label x of y: create the one that you mean or correct its name there`},
		"one kind, not served": {notServed, nil,
			`IPPool "pool" in namespace "ns", asked for by label x of y, cannot exist: the metal3 IP Address Manager is not installed; install it`},
		"two kinds, one not served": {notServed, []string{"InClusterIPPool"},
			`no IPPool and no InClusterIPPool "pool" can be used in namespace "ns", asked for by label x of y: create the one that you mean or correct its name there; ` +
				`for an IPPool install the metal3 IP Address Manager first`},
	} {
		t.Run(name, func(t *testing.T) {
			want := aWant
			for _, kind := range test.others {
				want.AlsoMissing = append(want.AlsoMissing, ipam.PoolReference{Kind: kind, Name: "pool"})
			}
			_, err := Provider{}.Pool(t.Context(), test.reader, aMachine, want)
			if refusal, ok := ipam.AsRefusal(err); !ok || refusal.Reason != ipam.PoolNotFound || refusal.Message != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestFailureToReadIsNoRefusal(t *testing.T) {
	failure := errors.New("etcdserver: request timed out")
	c := server(t, poolWith(func(s *ipamv1.IPPoolSpec) { s.ClusterName = new("dkp") }, entry("10.0.0.1", "10.0.0.6", "")),
		&capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "dkp"}})
	for name, reader := range map[string]client.Reader{
		"of the pool":                       faults.Failing[*ipamv1.IPPool](c, failure),
		"of the Cluster":                    faults.Failing[*capi.Cluster](c, failure),
		"of the addresses":                  faults.Failing[*ipamv1.IPAddressList](c, failure),
		"of the addresses of the other API": faults.Failing[*capiipamv1.IPAddressList](c, failure),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Provider{}.Pool(t.Context(), reader, aMachine, aWant)
			if _, refused := ipam.AsRefusal(err); refused || !errors.Is(err, failure) {
				t.Errorf("got %v, want the failure", err)
			}
		})
	}
}

// Cluster API's kinds may be served without those of its claims.
func TestPoolIsReadWhereNobodyServesTheOtherClaimAPI(t *testing.T) {
	c := server(t, poolOf(entry("10.0.0.1", "10.0.0.6", "")), taken("ns", "pool", "10.0.0.1"))
	pool, err := Provider{}.Pool(t.Context(), faults.Failing[*capiipamv1.IPAddressList](c, &meta.NoKindMatchError{}), aMachine, aWant)
	if err != nil {
		t.Fatal(err)
	}
	if free, _ := pool.Free(nil); free != 5 {
		t.Errorf("it has %d free, want 5", free)
	}
}

func TestCauseOfAClaimThatMetal3LeavesIsFound(t *testing.T) {
	ranges := entry("10.0.0.1", "10.0.0.6", "")
	named := func(name, prefix string, e ipamv1.Pool) *ipamv1.IPPool {
		pool := poolWith(func(s *ipamv1.IPPoolSpec) { s.NamePrefix = prefix }, e)
		pool.Name = name
		return pool
	}
	reserving := func(ip string) *ipamv1.IPPool {
		return poolWith(func(s *ipamv1.IPPoolSpec) {
			s.PreAllocations = map[string]ipamv1.IPAddressStr{"cp-0": ipamv1.IPAddressStr(ip)}
		}, ranges)
	}
	elsewhere := named("other", "lab", ranges)
	elsewhere.Namespace = "other"
	claim := ipam.Claim{Object: &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0"}}}
	const reserved, collides = "its spec.preAllocations reserve 10.0.0.3 for this claim, which another claim has", `IPPool "other" has some of its addresses and the same namePrefix "lab"`
	for name, test := range map[string]struct {
		pool   *ipamv1.IPPool
		others []client.Object
		want   string
	}{
		"nothing":                                {named("pool", "lab", ranges), nil, ""},
		"its address is used":                    {reserving("10.0.0.3"), []client.Object{taken("ns", "pool", "10.0.0.3")}, reserved},
		"its address is used by the other API":   {reserving("10.0.0.3"), []client.Object{takenByTwin("pool", "10.0.0.3")}, reserved},
		"its address is free":                    {reserving("10.0.0.3"), []client.Object{taken("ns", "pool", "10.0.0.4")}, ""},
		"its address is none":                    {reserving("nonsense"), []client.Object{taken("ns", "pool", "nonsense")}, ""},
		"the names of another pool's":            {named("pool", "lab", ranges), []client.Object{named("other", "lab", entry("10.0.0.6", "10.0.0.9", ""))}, collides},
		"the names of another pool's, elsewhere": {named("pool", "lab", ranges), []client.Object{elsewhere}, ""},
		"other addresses of the same names":      {named("pool", "lab", ranges), []client.Object{named("other", "lab", entry("10.0.0.7", "10.0.0.9", ""))}, ""},
		"the same addresses of other names":      {named("pool", "lab", ranges), []client.Object{named("other", "lab-2", ranges)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := server(t, append(test.others, test.pool)...)
			got := Provider{}.WhyNotBound(t.Context(), c, ipam.Pool{Object: test.pool}, claim)
			if !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	t.Run("nothing, where it cannot be looked for", func(t *testing.T) {
		c := server(t, named("other", "lab", ranges), taken("ns", "pool", "10.0.0.3"))
		failure := errors.New("no answer")
		for _, pool := range []*ipamv1.IPPool{reserving("10.0.0.3"), named("pool", "lab", ranges)} {
			reader := faults.Failing[*ipamv1.IPAddressList](interceptor.NewClient(c, interceptor.Funcs{
				List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
					if _, is := list.(*ipamv1.IPPoolList); is {
						return failure
					}
					return c.List(ctx, list, opts...)
				},
			}), failure)
			if got := (Provider{}).WhyNotBound(t.Context(), reader, ipam.Pool{Object: pool}, claim); got != "" {
				t.Errorf("got %q", got)
			}
		}
	})
}
