package reservation

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/inventory"
)

// scene is an IPPool a and an InClusterIPPool b, with 10.0.0.1 to 10.0.0.9 each. Of a, machine cp
// has the first.
type scene struct {
	pool      *ipamv1.IPPool
	inCluster *unstructured.Unstructured
	address   *ipamv1.IPAddress
	funcs     interceptor.Funcs
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "ns", Name: name, Annotations: map[string]string{}}
}

func newScene() *scene {
	text := func(s string) *ipamv1.IPAddressStr { return new(ipamv1.IPAddressStr(s)) }
	s := &scene{pool: &ipamv1.IPPool{ObjectMeta: named("a")}, address: anAddress("10.0.0.1", "cp-0")}
	s.pool.Spec.Pools, s.pool.Spec.Prefix = []ipamv1.Pool{{Start: text("10.0.0.1"), End: text("10.0.0.9")}}, 24
	ipam.Protect(s.address, "cp")
	s.inCluster = &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool", "metadata": map[string]any{"namespace": "ns", "name": "b"},
		"spec": map[string]any{"addresses": []any{"10.0.0.1-10.0.0.9"}, "excludedAddresses": []any{"10.0.0.9"}, "prefix": int64(24)},
	}}
	return s
}

// anAddress is one of pool a, for a claim.
func anAddress(ip, claim string) *ipamv1.IPAddress {
	address := &ipamv1.IPAddress{ObjectMeta: named("a-" + strings.ReplaceAll(ip, ".", "-"))}
	address.Spec.Address, address.Spec.Pool.Name, address.Spec.Claim.Name = ipamv1.IPAddressStr(ip), "a", claim
	return address
}

func (s *scene) client(t *testing.T) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(ipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, nil), capiipamv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"InClusterIPPool", "GlobalInClusterIPPool"} {
		gvk := schema.FromAPIVersionAndKind("ipam.cluster.x-k8s.io/v1alpha2", kind)
		scheme.AddKnownTypeWithName(gvk, &unstructured.Unstructured{})
		scheme.AddKnownTypeWithName(gvk.GroupVersion().WithKind(kind+"List"), &unstructured.UnstructuredList{})
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(testrestmapper.TestOnlyStaticRESTMapper(scheme)).
		WithObjects(s.pool, s.inCluster, s.address).WithInterceptorFuncs(s.funcs).Build()
}

var (
	poolA = inventory.PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("a")}
	poolB = inventory.PoolKey{Namespace: "ns", PoolReference: contract.InClusterPool("b")}
)

func providersOf(c client.Client) ipam.Providers {
	return ipam.NewProviders(contract.Provider{Mapper: c.RESTMapper(), Live: c}, metal3.Provider{})
}

func read(t *testing.T, c client.Client) *inventory.Graph {
	t.Helper()
	source := inventory.Source{Client: c, Reader: c, Providers: providersOf(c), Now: time.Now}
	graph, err := source.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

func want(pool inventory.PoolKey, reason string, ips ...string) []Wanted {
	var wanted []Wanted
	for _, ip := range ips {
		wanted = append(wanted, Wanted{Pool: pool, Address: netip.MustParseAddr(ip), Reason: reason})
	}
	return wanted
}

func TestPlanTellsWhatIsWrittenAndWhatStandsInTheWay(t *testing.T) {
	reserved := func(s *scene) {
		s.pool.Annotations[ipam.ReservedAnnotation] = `{"10.0.0.5":"a VM"}`
		s.pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"capv-static-ip.dev/reserved-10.0.0.5": "10.0.0.5"}
	}
	const metal3Writes, excludes = "spec.preAllocations capv-static-ip.dev/reserved-10.0.0.5: 10.0.0.5", "spec.excludedAddresses 10.0.0.5"
	freeze := func(pool *ipamv1.IPPool) {
		_ = metal3.Provider{}.Freeze(pool, []netip.Addr{netip.MustParseAddr("10.0.0.1")})
	}
	keep := func(pool *unstructured.Unstructured, ip string) {
		_ = unstructured.SetNestedStringSlice(pool.Object, []string{"10.0.0.9", ip}, "spec", "excludedAddresses")
		pool.SetAnnotations(map[string]string{ipam.PoolMigrationAnnotation: `{"excluded":["10.0.0.9"],"added":["` + ip + `"]}`})
	}
	cools := func(s *scene) { ipam.CoolAddress(s.address, ipam.Holder{Name: "cp"}, time.Now()) }
	for name, test := range map[string]struct {
		change func(*scene)
		wanted []Wanted
		undo   bool
		// expect is state, what is written, the reason and the obstacle.
		expect [4]string
	}{
		"an address that is free":                         {nil, want(poolA, "a VM", "10.0.0.5"), false, [4]string{"free", metal3Writes, "a VM", ""}},
		"of the in-cluster provider":                      {nil, want(poolB, "", "10.0.0.5"), false, [4]string{"free", excludes, defaultReason, ""}},
		"one that is named twice":                         {nil, want(poolA, "", "10.0.0.5", "10.0.0.5"), false, [4]string{"free", metal3Writes, defaultReason, ""}},
		"one that is reserved already":                    {reserved, want(poolA, "", "10.0.0.5"), false, [4]string{"reserved", "", "a VM", ""}},
		"with another reason":                             {reserved, want(poolA, "an LB", "10.0.0.5"), false, [4]string{"reserved", "annotation " + ipam.ReservedAnnotation, "an LB", ""}},
		"one that others have excluded":                   {nil, want(poolB, "", "10.0.0.9"), false, [4]string{"reserved", "", "the pool gives it to nobody, by its spec", ""}},
		"one outside":                                     {nil, want(poolA, "", "10.0.1.5"), false, [4]string{"outside", "", "", "is in none of its ranges"}},
		"one of another family":                           {nil, want(poolA, "", "2001:db8::1"), false, [4]string{"outside", "", "", "is in none of its ranges"}},
		"one that a machine has":                          {nil, want(poolA, "", "10.0.0.1"), false, [4]string{"used", "", "", "is held by VSphereMachine ns/cp"}},
		"one that cools down":                             {cools, want(poolA, "", "10.0.0.1"), false, [4]string{"cooling", "", "", "cools down, and its object keeps it until then: run this again when it is free"}},
		"one that is for a claim":                         {func(s *scene) { s.pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"lb-0": "10.0.0.5"} }, want(poolA, "", "10.0.0.5"), false, [4]string{"reserved", "", "", `is pre-allocated for claim "lb-0": take that out of its spec.preAllocations`}},
		"one of a pool that is frozen for a migration":    {func(s *scene) { freeze(s.pool) }, want(poolA, "", "10.0.0.5"), false, [4]string{"free", metal3Writes, defaultReason, ""}},
		"one that a machine has, and that is to be moved": {func(s *scene) { freeze(s.pool); keep(s.inCluster, "10.0.0.1") }, want(poolB, "", "10.0.0.1"), false, [4]string{"reserved", "", "", "is held in ns/IPPool/a, and moved from or to there: run this again when that is over"}},
		"one that is kept for what stays behind":          {func(s *scene) { freeze(s.pool); keep(s.inCluster, "10.0.0.5") }, want(poolB, "", "10.0.0.5"), false, [4]string{"free", excludes, defaultReason, ""}},
		"a pool that does not exist":                      {nil, want(inventory.PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("x")}, "", "10.0.0.5"), false, [4]string{"outside", "", "", "the pool does not exist"}},
		"what the pool says is no list":                   {func(s *scene) { s.pool.Annotations[ipam.ReservedAnnotation] = "?" }, want(poolA, "", "10.0.0.5"), false, [4]string{"free", "", "", "reading annotation capv-static-ip.dev/reserved: invalid character '?' looking for beginning of value"}},
		"undone":                                          {reserved, want(poolA, "", "10.0.0.5"), true, [4]string{"reserved", "without " + metal3Writes, "a VM", ""}},
		"undone, and was not reserved":                    {nil, want(poolA, "", "10.0.0.5"), true, [4]string{"free", "", "", ""}},
		"undone, and others have excluded":                {nil, want(poolB, "", "10.0.0.9"), true, [4]string{"reserved", "", "", "was not reserved by this command: edit the spec of the pool"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			if test.change != nil {
				test.change(s)
			}
			decide := Plan
			if test.undo {
				decide = PlanUndo
			}
			items := decide(read(t, s.client(t)), test.wanted)
			if len(items) != 1 {
				t.Fatalf("got %+v, want one", items)
			}
			got := [4]string{string(items[0].State), items[0].Writes, items[0].Reason, items[0].Obstacle}
			if got != test.expect {
				t.Errorf("got %q, want %q", got, test.expect)
			}
		})
	}
}

// runs reserves addresses of pool a, and returns the pool as it is then.
func (s *scene) runs(t *testing.T, ips ...string) (*ipamv1.IPPool, error) {
	t.Helper()
	c := s.client(t)
	r := &Reservation{Client: c, Providers: providersOf(c), Timeout: time.Second, Settle: time.Millisecond, Report: t.Logf}
	err := r.Run(t.Context(), Plan(read(t, c), want(poolA, "a VM", ips...)))
	pool := &ipamv1.IPPool{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(s.pool), pool); err != nil {
		t.Fatal(err)
	}
	return pool, err
}

// keeps are the addresses that a pool gives to nobody, and those that it says it does.
func keeps(t *testing.T, pool *ipamv1.IPPool) (kept, said []string) {
	t.Helper()
	for _, ip := range pool.Spec.PreAllocations {
		kept = append(kept, string(ip))
	}
	reserved, err := ipam.ReservationsOf(pool)
	if err != nil {
		t.Fatal(err)
	}
	for ip := range reserved {
		said = append(said, ip.String())
	}
	slices.Sort(kept)
	slices.Sort(said)
	return kept, said
}

// gives has pool a give an address to somebody before a write of the pool, or after it.
func gives(ip string, after bool) interceptor.Funcs {
	var isGiven bool
	return interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
		give := func() error {
			if isGiven {
				return nil
			}
			isGiven = true
			return c.Create(ctx, anAddress(ip, "md-0"))
		}
		if after {
			return errors.Join(c.Patch(ctx, obj, patch, opts...), give())
		}
		// It is as if the provider's webhook refused it, which knows of the address.
		if !isGiven {
			return cmp.Or(give(), error(apierrors.NewBadRequest("in use")))
		}
		return c.Patch(ctx, obj, patch, opts...)
	}}
}

func TestAddressThatIsGivenMeanwhileIsNotReservedAndSaid(t *testing.T) {
	for name, after := range map[string]bool{"before the pool is written": false, "by what its provider had read before": true} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			s.funcs = gives("10.0.0.5", after)

			pool, err := s.runs(t, "10.0.0.5", "10.0.0.6")

			if err == nil || !strings.Contains(err.Error(), "10.0.0.5 was given to claim ns/md-0 meanwhile") || strings.Contains(err.Error(), "10.0.0.6") {
				t.Errorf("got %v, want that 10.0.0.5 was given to somebody, and 10.0.0.6 was not", err)
			}
			kept, said := keeps(t, pool)
			if want := []string{"10.0.0.6"}; !slices.Equal(kept, want) || !slices.Equal(said, want) {
				t.Errorf("the pool keeps %v and says %v, want %v", kept, said, want)
			}
		})
	}
}

func TestReservingAgainAndUndoing(t *testing.T) {
	s := newScene()
	c := s.client(t)
	r := &Reservation{Client: c, Providers: providersOf(c), Timeout: time.Second, Settle: time.Millisecond, Report: t.Logf}
	for range 2 {
		if err := r.Run(t.Context(), Plan(read(t, c), append(want(poolA, "", "10.0.0.5"), want(poolB, "", "10.0.0.5")...))); err != nil {
			t.Fatal(err)
		}
	}
	undo := append(want(poolA, "", "10.0.0.5"), want(poolB, "", "10.0.0.5")...)
	for _, item := range PlanUndo(read(t, c), undo) {
		if item.State != inventory.Reserved || item.Writes == "" {
			t.Errorf("got %+v, want it reserved", item)
		}
	}
	if err := r.Undo(t.Context(), PlanUndo(read(t, c), undo)); err != nil {
		t.Fatal(err)
	}
	for _, item := range Plan(read(t, c), undo) {
		if item.State != inventory.Free {
			t.Errorf("got %+v, want it free", item)
		}
	}
	pool := &ipamv1.IPPool{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(s.pool), pool); err != nil {
		t.Fatal(err)
	}
	if kept, said := keeps(t, pool); len(kept)+len(said) > 0 || len(pool.Annotations) > 0 {
		t.Errorf("the pool keeps %v and has the annotations %v, want nothing left", kept, pool.Annotations)
	}
}
