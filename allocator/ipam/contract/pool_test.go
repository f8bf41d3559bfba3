package contract

import (
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/faults"
)

// The kinds of pools in these tests. That of the last is not watched.
var (
	inCluster = inClusterVersion.WithKind(InClusterKind)
	global    = inClusterVersion.WithKind(GlobalInClusterKind)
	rangeKind = schema.GroupVersionKind{Group: "ipam.example.com", Version: "v1", Kind: "Range"}
)

// kinds are served but for those that are left out.
func kinds(leftOut ...string) meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{inClusterVersion, rangeKind.GroupVersion()})
	for kind, scope := range map[schema.GroupVersionKind]meta.RESTScope{
		inCluster: meta.RESTScopeNamespace, global: meta.RESTScopeRoot, rangeKind: meta.RESTScopeNamespace,
	} {
		if !strings.Contains(strings.Join(leftOut, ","), kind.Kind) {
			mapper.Add(kind, scope)
		}
	}
	return mapper
}

// server is an API server with these objects.
func server(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(AddToScheme(scheme, kinds()), capi.AddToScheme(scheme, nil)); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []schema.GroupVersionKind{inCluster, global, rangeKind} {
		scheme.AddKnownTypeWithName(kind, &unstructured.Unstructured{})
		scheme.AddKnownTypeWithName(kind.GroupVersion().WithKind(kind.Kind+"List"), &unstructured.UnstructuredList{})
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

// lab is the pool "lab" of a kind, with further fields.
func lab(kind schema.GroupVersionKind, fields map[string]any) *unstructured.Unstructured {
	pool := &unstructured.Unstructured{Object: fields}
	if fields == nil {
		pool.Object = map[string]any{}
	}
	pool.SetGroupVersionKind(kind)
	pool.SetName("lab")
	if kind != global {
		pool.SetNamespace("ns")
	}
	return pool
}

func wantOf(kind schema.GroupVersionKind) ipam.Want {
	return ipam.Want{Pool: ipam.PoolReference{APIGroup: kind.Group, Kind: kind.Kind, Name: "lab"}, Ask: ipam.Ask{AskedBy: "label x of y"}}
}

// taken is the address of a claim from the pool "lab" of a kind.
func taken(namespace, claim string, kind schema.GroupVersionKind) *ipamv1.IPAddress {
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "of-" + claim + "-" + strings.ToLower(kind.Kind)}}
	address.Spec.ClaimRef.Name = claim
	address.Spec.PoolRef = ipamv1.IPPoolReference{APIGroup: kind.Group, Kind: kind.Kind, Name: "lab"}
	return address
}

var aMachine = ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp"}}

func counts(fields ...any) map[string]any {
	all := map[string]any{}
	for i := 0; i < len(fields); i += 2 {
		all[fields[i].(string)] = fields[i+1]
	}
	return map[string]any{"status": map[string]any{"ipAddresses": all}}
}

func TestRoomOfAPool(t *testing.T) {
	elsewhere := taken("ns", "other-0", inCluster)
	elsewhere.Name, elsewhere.Spec.PoolRef.Name = "elsewhere", "other"
	foreign := taken("ns", "other-0", schema.GroupVersionKind{Group: rangeKind.Group, Kind: InClusterKind})
	leaving := taken("ns", "old-0", inCluster)
	leaving.DeletionTimestamp, leaving.Finalizers = &metav1.Time{Time: time.Now()}, []string{ipam.InUseFinalizer}
	of := func(namespace, claim string) client.Object { return taken(namespace, claim, inCluster) }
	ofAll := func(namespace, claim string) client.Object { return taken(namespace, claim, global) }

	type room struct{ total, free, needed uint64 }
	for name, test := range map[string]struct {
		kind      schema.GroupVersionKind
		status    map[string]any
		addresses []client.Object
		want      room
	}{
		"none is used":                         {inCluster, counts("total", int64(3)), nil, room{3, 3, 2}},
		"the provider's own count lags":        {inCluster, counts("total", int64(3), "free", int64(0), "used", int64(3)), nil, room{3, 3, 2}},
		"one is used":                          {inCluster, counts("total", int64(3)), []client.Object{of("ns", "other-0")}, room{3, 2, 2}},
		"one is used by the first claim":       {inCluster, counts("total", int64(3)), []client.Object{of("ns", "cp-0")}, room{3, 2, 1}},
		"all are used":                         {inCluster, counts("total", int64(1)), []client.Object{of("ns", "other-0")}, room{1, 0, 2}},
		"more are used than there are":         {inCluster, counts("total", int64(1)), []client.Object{of("ns", "a-0"), of("ns", "b-0")}, room{1, 0, 2}},
		"there are none":                       {inCluster, counts("total", int64(0)), nil, room{0, 0, 2}},
		"one that is used is out of range":     {inCluster, counts("total", int64(2), "outOfRange", int64(1)), []client.Object{of("ns", "a-0"), of("ns", "b-0")}, room{2, 1, 2}},
		"more are said to be out than are":     {inCluster, counts("total", int64(2), "outOfRange", int64(5)), []client.Object{of("ns", "a-0")}, room{2, 2, 2}},
		"what is out of range is not a number": {inCluster, counts("total", int64(2), "outOfRange", "1"), []client.Object{of("ns", "a-0")}, room{2, 1, 2}},
		"one is being deleted":                 {inCluster, counts("total", int64(3)), []client.Object{leaving}, room{3, 2, 2}},
		"one of another pool":                  {inCluster, counts("total", int64(3)), []client.Object{elsewhere}, room{3, 3, 2}},
		"one of another kind":                  {inCluster, counts("total", int64(3)), []client.Object{ofAll("ns", "a-0")}, room{3, 3, 2}},
		"one of another group":                 {inCluster, counts("total", int64(3)), []client.Object{foreign}, room{3, 3, 2}},
		"one in another namespace":             {inCluster, counts("total", int64(3)), []client.Object{of("other", "a-0")}, room{3, 3, 2}},
		"a pool of all namespaces":             {global, counts("total", int64(3)), []client.Object{ofAll("ns", "a-0"), ofAll("other", "a-0")}, room{3, 1, 2}},
		"a claim of that name elsewhere":       {global, counts("total", int64(3)), []client.Object{ofAll("other", "cp-0")}, room{3, 2, 2}},
		"a claim of that name here":            {global, counts("total", int64(3)), []client.Object{ofAll("ns", "cp-0")}, room{3, 2, 1}},
		"a pool that is not watched":           {rangeKind, counts("total", int64(3)), []client.Object{taken("ns", "cp-0", rangeKind)}, room{3, 2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			c := server(t, append(test.addresses, lab(test.kind, test.status))...)
			pool, err := Provider{Mapper: kinds(), Live: c}.Pool(t.Context(), c, aMachine, wantOf(test.kind))
			if err != nil || pool.Free == nil {
				t.Fatalf("got %+v and error %v, want its room", pool, err)
			}
			got := room{total: pool.Total}
			got.free, got.needed = pool.Free([]string{"cp-0", "cp-1"})
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// A claim is the only way to find out.
func TestRoomOfAPoolThatSaysNothingOfItIsNotKnown(t *testing.T) {
	for name, status := range map[string]map[string]any{
		"no status":             nil,
		"a status of its own":   {"status": map[string]any{"phase": "Ready"}},
		"a status that is none": {"status": "Ready"},
		"counts that are none":  {"status": map[string]any{"ipAddresses": "3"}},
		"no total":              counts("free", int64(3)),
		"a total in words":      counts("total", "3"),
		"a total with a point":  counts("total", 3.5),
		"a total under zero":    counts("total", int64(-1)),
	} {
		t.Run(name, func(t *testing.T) {
			c := server(t, lab(rangeKind, status))
			pool, err := Provider{Mapper: kinds(), Live: c}.Pool(t.Context(), nil, aMachine, wantOf(rangeKind))
			if err != nil || pool.Free != nil || pool.Total != 0 {
				t.Errorf("got a total of %d, a count: %v, and error %v, want that it is not known", pool.Total, pool.Free != nil, err)
			}
		})
	}
}

func TestPoolThatCannotServeIsRefused(t *testing.T) {
	const name = `InClusterIPPool "lab" in namespace "ns"`
	terminating := lab(inCluster, nil)
	terminating.SetDeletionTimestamp(&metav1.Time{Time: time.Now()})
	terminating.SetFinalizers([]string{"example.org/hold"})
	paused := lab(inCluster, nil)
	paused.SetAnnotations(map[string]string{clusterv1.PausedAnnotation: ""})
	misled := lab(inCluster, nil)
	misled.SetAnnotations(map[string]string{ipam.NameserversAnnotation: "10.0.0.53, dns"})
	talkative := lab(inCluster, nil)
	talkative.SetAnnotations(map[string]string{ipam.SearchDomainsAnnotation: strings.Repeat("x,", 129)})
	cluster := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "stopped"}}
	cluster.Spec.Paused = new(true)

	for title, test := range map[string]struct {
		objects []client.Object
		leftOut string
		kind    schema.GroupVersionKind
		cluster string
		reason  ipam.Reason
		text    string
	}{
		"no kind":          {leftOut: "Range", kind: rangeKind, reason: ipam.PoolNotFound, text: `Range "lab" in namespace "ns", asked for by label x of y, cannot exist: no kind Range.ipam.example.com is served`},
		"no pool":          {kind: inCluster, reason: ipam.PoolNotFound, text: name + " not found, asked for by label x of y"},
		"no pool of all":   {kind: global, reason: ipam.PoolNotFound, text: `GlobalInClusterIPPool "lab" not found, asked for by label x of y`},
		"being deleted":    {objects: []client.Object{terminating}, kind: inCluster, reason: ipam.PoolTerminating, text: name + " is being deleted: name another pool in label x of y"},
		"of prefixes":      {objects: []client.Object{lab(inCluster, map[string]any{"spec": map[string]any{"allocationPrefixLength": int64(64)}})}, kind: inCluster, reason: ipam.PoolInvalid, text: name + " hands out prefixes"},
		"paused":           {objects: []client.Object{paused}, kind: inCluster, reason: ipam.PoolNotServed, text: name + " is not served: it is paused"},
		"no Cluster":       {objects: []client.Object{lab(inCluster, nil)}, kind: inCluster, cluster: "nowhere", reason: ipam.PoolNotServed, text: name + ` is not served for Cluster "nowhere", which does not exist`},
		"paused Cluster":   {objects: []client.Object{lab(inCluster, nil), cluster}, kind: inCluster, cluster: "stopped", reason: ipam.PoolNotServed, text: name + ` is not served for Cluster "stopped", which is paused`},
		"no name server":   {objects: []client.Object{misled}, kind: inCluster, reason: ipam.PoolInvalid, text: name + " has an invalid annotation capv-static-ip.dev/nameservers"},
		"too many domains": {objects: []client.Object{talkative}, kind: inCluster, reason: ipam.PoolInvalid, text: name + " has 129 search domains"},
	} {
		t.Run(title, func(t *testing.T) {
			c, machine := server(t, test.objects...), aMachine
			machine.Cluster = test.cluster
			_, err := Provider{Mapper: kinds(test.leftOut), Live: c}.Pool(t.Context(), c, machine, wantOf(test.kind))
			refusal, ok := ipam.AsRefusal(err)
			if !ok || refusal.Reason != test.reason || !strings.HasPrefix(refusal.Message, test.text) {
				t.Errorf("got %v, want a refusal %s with %q", err, test.reason, test.text)
			}
		})
	}
}

// A pool of a kind that is not watched is read from the API server, where the right
// to may be missing.
func TestPoolThatMayNotBeReadIsRefusedWithTheRightThatIsMissing(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Group: rangeKind.Group, Resource: "ranges"}, "lab", errors.New("no"))
	c := server(t, lab(rangeKind, nil))
	provider := Provider{Mapper: kinds(), Live: faults.Failing[*unstructured.Unstructured](c, forbidden)}

	_, err := provider.Pool(t.Context(), c, aMachine, wantOf(rangeKind))

	refusal, ok := ipam.AsRefusal(err)
	if want := "grant get on ranges.ipam.example.com to"; !ok || refusal.Reason != ipam.PoolForbidden || !strings.Contains(refusal.Message, want) {
		t.Errorf("got %v, want a refusal with %q", err, want)
	}
}

// Whoever reads of a failure in a denial would look for it in the pool.
func TestFailureToReadIsNoRefusal(t *testing.T) {
	failure := errors.New("etcdserver: request timed out")
	c := server(t, lab(inCluster, counts("total", int64(3))), &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "dkp"}})
	machine := aMachine
	machine.Cluster = "dkp"
	for name, test := range map[string]struct {
		reader client.Reader
		mapper meta.RESTMapper
	}{
		"of the pool":      {faults.Failing[*unstructured.Unstructured](c, failure), kinds()},
		"of the Cluster":   {faults.Failing[*capi.Cluster](c, failure), kinds()},
		"of the addresses": {faults.Failing[*ipamv1.IPAddressList](c, failure), kinds()},
		"of the kinds":     {c, unknowing{failure: failure}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Provider{Mapper: test.mapper, Live: c}.Pool(t.Context(), test.reader, machine, wantOf(inCluster))
			if _, refused := ipam.AsRefusal(err); refused || !errors.Is(err, failure) {
				t.Errorf("got %v, want the failure", err)
			}
		})
	}
}

// unknowing is a RESTMapper whose API server does not answer.
type unknowing struct {
	meta.RESTMapper
	failure error
}

func (u unknowing) RESTMapping(schema.GroupKind, ...string) (*meta.RESTMapping, error) {
	return nil, u.failure
}
