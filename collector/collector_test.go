package collector

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	metal3v1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/ledger"
	"capv-static-ip.dev/allocator/retry"
)

var providers = ipam.NewProviders(contract.Provider{}, metal3.Provider{})

// server is an API server with these objects, none of which needs more than metal3.
func server(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(metal3v1.AddToScheme(scheme), capiipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, nil)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

// watched are the kinds that a collector in these tests may read.
var watched = map[string]bool{"IPPool": true, "IPClaim": true, "IPAddress": true, "VSphereMachine": true, "MachineSet": true, "KubeadmControlPlane": true}

// collectorOf is one whose cache is this server. A kind that nobody watches fails the test.
func collectorOf(t *testing.T, c client.WithWatch) *Collector {
	t.Helper()
	return New(t.Context(), Options{
		Client: c, Cache: strict{Reader: c, scheme: c.Scheme(), t: t}, Providers: providers,
		Watches:        func(kind schema.GroupKind) bool { return watched[kind.Kind] },
		CertificateEnd: func(context.Context) (time.Time, error) { return time.Unix(1800000000, 0), nil },
		Version:        "v1.2.3",
	})
}

type strict struct {
	client.Reader
	scheme *runtime.Scheme
	t      *testing.T
}

func (s strict) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	gvk, err := apiutil.GVKForObject(list, s.scheme)
	if kind := strings.TrimSuffix(gvk.Kind, "List"); err != nil || !watched[kind] && kind != "Namespace" {
		s.t.Errorf("%s is read, and nobody watches it (error %v)", kind, err)
	}
	return s.Reader.List(ctx, list, options...)
}

func aPool(name, first, last string) *metal3v1.IPPool {
	pool := &metal3v1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	pool.Spec.Prefix = 24
	start, end := metal3v1.IPAddressStr(first), metal3v1.IPAddressStr(last)
	pool.Spec.Pools = []metal3v1.Pool{{Start: &start, End: &end}}
	return pool
}

func anAddress(pool, ip, claim string, annotations map[string]string) *metal3v1.IPAddress {
	address := &metal3v1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: pool + "-" + strings.ReplaceAll(ip, ".", "-"), Annotations: annotations,
	}}
	address.Spec.Pool.Name, address.Spec.Address, address.Spec.Claim.Name = pool, metal3v1.IPAddressStr(ip), claim
	return address
}

func anOwner(c client.Client, name, refusedBy string) client.Object {
	owner := kube.MetadataOf(capi.InScheme(c.Scheme(), retry.OwnerKinds()[0]))
	owner.SetNamespace("ns")
	owner.SetName(name)
	owner.SetAnnotations(map[string]string{ipam.RefusedByAnnotation: refusedBy})
	return owner
}

func compare(t *testing.T, c *Collector, want string, names ...string) {
	t.Helper()
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

func TestStatesOfAddressesAddUpToThePool(t *testing.T) {
	pool := aPool("p", "10.0.0.0", "10.0.0.9")
	c := server(t, pool, anAddress("p", "10.0.0.1", "a", nil),
		anAddress("p", "10.0.0.2", "b", map[string]string{ipam.ReleasedAtAnnotation: "2026-11-29T00:00:00Z"}))
	compare(t, collectorOf(t, c), `
# HELP capv_static_ip_pool_addresses Addresses of a pool by state: used, cooling, reserved (for others, or for nobody) and free add up to the pool.
# TYPE capv_static_ip_pool_addresses gauge
capv_static_ip_pool_addresses{kind="IPPool",pool="p",pool_namespace="ns",state="cooling"} 1
capv_static_ip_pool_addresses{kind="IPPool",pool="p",pool_namespace="ns",state="free"} 7
capv_static_ip_pool_addresses{kind="IPPool",pool="p",pool_namespace="ns",state="reserved"} 1
capv_static_ip_pool_addresses{kind="IPPool",pool="p",pool_namespace="ns",state="used"} 1
`, "capv_static_ip_pool_addresses")
}

func TestPoolThatIsGoneHasNoSeries(t *testing.T) {
	pool := aPool("p", "10.0.0.1", "10.0.0.9")
	c := server(t, pool, anAddress("p", "10.0.0.1", "a", nil))
	collector := collectorOf(t, c)
	if n := testutil.CollectAndCount(collector, "capv_static_ip_pool_addresses", "capv_static_ip_pool_waiting_owners"); n != 5 {
		t.Errorf("got %d series of a pool, want 5", n)
	}
	if err := c.Delete(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if n := testutil.CollectAndCount(collector, "capv_static_ip_pool_addresses", "capv_static_ip_pool_waiting_owners"); n != 0 {
		t.Errorf("got %d series of a pool that is gone", n)
	}
}

// An owner may wait for a pool that is not there, and for what is no pool.
func TestOwnersThatWaitAreCountedByPool(t *testing.T) {
	c := server(t, aPool("p", "10.0.0.1", "10.0.0.9"), aPool("idle", "10.0.1.1", "10.0.1.9"))
	for name, refusedBy := range map[string]string{
		"one": "IPPool.ipam.metal3.io/p:2", "two": "IPPool.ipam.metal3.io/p,IPPool.ipam.metal3.io/absent", "three": "GatewayInvalid", "none": "",
	} {
		if err := c.Create(t.Context(), anOwner(c, name, refusedBy)); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, collectorOf(t, c), `
# HELP capv_static_ip_pool_waiting_owners Owners of machines (MachineSets, control planes) that were refused, and wait for a pool.
# TYPE capv_static_ip_pool_waiting_owners gauge
capv_static_ip_pool_waiting_owners{kind="IPPool",pool="absent",pool_namespace="ns"} 1
capv_static_ip_pool_waiting_owners{kind="IPPool",pool="idle",pool_namespace="ns"} 0
capv_static_ip_pool_waiting_owners{kind="IPPool",pool="p",pool_namespace="ns"} 2
`, "capv_static_ip_pool_waiting_owners")
}

// A cache fails, the rest of what is served stays.
// Whoever may write owners can name pools of any kind and API group, and two series of the
// same labels would fail the scrape of all metrics.
func TestOwnersThatNamePoolsOfOneKindInTwoGroupsFailNoScrape(t *testing.T) {
	pool := aPool("p", "10.0.0.0", "10.0.0.9")
	owner := anOwner(server(t), "md", "IPPool.ipam.metal3.io/a,IPPool.example.com/a,IPPool.example.org/a")
	compare(t, collectorOf(t, server(t, pool, owner)), `
# HELP capv_static_ip_pool_waiting_owners Owners of machines (MachineSets, control planes) that were refused, and wait for a pool.
# TYPE capv_static_ip_pool_waiting_owners gauge
capv_static_ip_pool_waiting_owners{kind="IPPool",pool="a",pool_namespace="ns"} 1
capv_static_ip_pool_waiting_owners{kind="IPPool.example.com",pool="a",pool_namespace="ns"} 1
capv_static_ip_pool_waiting_owners{kind="IPPool.example.org",pool="a",pool_namespace="ns"} 1
capv_static_ip_pool_waiting_owners{kind="IPPool",pool="p",pool_namespace="ns"} 0
`, "capv_static_ip_pool_waiting_owners")
}

func TestScrapeWithoutCachesSaysWhatItKnows(t *testing.T) {
	collector := collectorOf(t, server(t))
	collector.Watches = func(schema.GroupKind) bool { return false }
	if n := testutil.CollectAndCount(collector); n != 2 {
		t.Errorf("got %d series, want those of the build and of the certificate", n)
	}
	collector.CertificateEnd = func(context.Context) (time.Time, error) { return time.Time{}, errNoCertificate }
	if n := testutil.CollectAndCount(collector); n != 1 {
		t.Errorf("got %d series, want that of the build", n)
	}
}

func TestMetricsFollowTheRulesOfPrometheus(t *testing.T) {
	problems, err := testutil.CollectAndLint(collectorOf(t, server(t, aPool("p", "10.0.0.1", "10.0.0.9"))))
	if err != nil || len(problems) > 0 {
		t.Errorf("got %v and error %v", problems, err)
	}
}

func TestEndOfTheCertificateIsThatOfTheServer(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	address := s.Listener.Addr().String()
	host, text, _ := strings.Cut(address, ":")
	var port int
	for _, digit := range text {
		port = port*10 + int(digit-'0')
	}
	end, err := CertificateEndOf(host, port)(t.Context())
	if want := s.Certificate().NotAfter; err != nil || !end.Equal(want) {
		t.Errorf("got %s and error %v, want %s", end, err, want)
	}
	s.Close()
	if _, err := CertificateEndOf(host, port)(t.Context()); err == nil {
		t.Error("a server that is gone shows a certificate")
	}
}

// told is an informer that tells of what there is, and then of nothing more.
type told struct {
	cache.Informer
	objects []client.Object
}

type registration struct {
	toolscache.ResourceEventHandlerRegistration
}

func (registration) HasSynced() bool { return true }

func (i told) AddEventHandler(handler toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	for _, obj := range i.objects {
		handler.OnAdd(obj, true)
	}
	return registration{}, nil
}

// counting is a ledger that was told of these objects.
func counting(t *testing.T, objects ...client.Object) *ledger.Ledger {
	t.Helper()
	counts := ledger.New(providers)
	for _, source := range counts.Sources() {
		var ofKind []client.Object
		for _, obj := range objects {
			if reflect.TypeOf(obj) == reflect.TypeOf(source.Object) {
				ofKind = append(ofKind, obj)
			}
		}
		if err := source.Started(t.Context(), told{objects: ofKind}); err != nil {
			t.Fatal(err)
		}
	}
	return counts
}

// What is counted of the addresses differs from what can be listed here, to tell them apart.
func TestPoolsAreToldOfByWhatIsCounted(t *testing.T) {
	const used = `# HELP capv_static_ip_pool_addresses Addresses of a pool by state: used, cooling, reserved (for others, or for nobody) and free add up to the pool.
# TYPE capv_static_ip_pool_addresses gauge
capv_static_ip_pool_addresses{kind="IPPool",pool="p",pool_namespace="ns",state="cooling"} %d
capv_static_ip_pool_addresses{kind="IPPool",pool="p",pool_namespace="ns",state="free"} %d
capv_static_ip_pool_addresses{kind="IPPool",pool="p",pool_namespace="ns",state="reserved"} 0
capv_static_ip_pool_addresses{kind="IPPool",pool="p",pool_namespace="ns",state="used"} %d
`
	first, outside := anAddress("p", "10.0.0.1", "a", nil), anAddress("p", "10.9.0.1", "b", nil)
	cooling := anAddress("p", "10.0.0.2", "c", map[string]string{ipam.ReleasedAtAnnotation: "2026-01-01T00:00:00Z"})
	alike := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "alike"}}
	alike.Spec.PoolRef, alike.Spec.Address = capiipamv1.IPPoolReference{APIGroup: "x", Kind: "Y", Name: "p"}, "10.0.0.3"
	for name, test := range map[string]struct {
		counted             []client.Object
		cooling, free, used int
	}{
		"nothing":                         {nil, 0, 9, 0},
		"one":                             {[]client.Object{first}, 0, 8, 1},
		"one that cools down":             {[]client.Object{first, cooling}, 1, 7, 1},
		"one outside":                     {[]client.Object{first, outside}, 0, 8, 2},
		"one of another pool named alike": {[]client.Object{first, outside, alike}, 0, 9, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := collectorOf(t, server(t, aPool("p", "10.0.0.1", "10.0.0.9")))
			c.Counts = counting(t, test.counted...)
			compare(t, c, fmt.Sprintf(used, test.cooling, test.free, test.used), "capv_static_ip_pool_addresses")
		})
	}
}
