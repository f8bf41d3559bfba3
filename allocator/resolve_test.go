package allocator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// poolsOf is a reader of the pools "lab" of these kinds, each in the namespace
// "ns" if it has namespaces. It stands in for a cache that is behind, and for an
// API server that does not answer.
type poolsOf struct {
	client.Client
	kinds map[string]state
	// read are the kinds that were asked for, in order.
	read []string
}

// state is what becomes of a read. The zero state is that there is no such pool.
type state int

const (
	there state = iota + 1
	terminates
	limited
	notServed
	broken
)

var errBroken = errors.New("the API server does not answer")

func (p *poolsOf) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	kind, namespace := "IPPool", "ns"
	if pool, ok := obj.(*unstructured.Unstructured); ok {
		kind = pool.GetKind()
	}
	if kind == contract.GlobalInClusterKind {
		namespace = ""
	}
	p.read = append(p.read, kind)
	found := p.kinds[kind]
	switch {
	case found == notServed:
		return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Kind: kind}}
	case found == broken:
		return errBroken
	case found == 0 || key != client.ObjectKey{Namespace: namespace, Name: "lab"}:
		return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, key.Name)
	case found == terminates:
		obj.SetDeletionTimestamp(&metav1.Time{Time: time.Now()})
	case found == limited:
		obj.SetAnnotations(map[string]string{ipam.UsedByAnnotation: "other"})
	}
	return nil
}

// resolve has a want of this pool resolved, in a namespace.
func resolve(t *testing.T, cached, live map[string]state, namespace string, pool ipam.PoolReference) (want ipam.Want, readLive []string, err error) {
	t.Helper()
	server := &poolsOf{kinds: live}
	a := New(ipam.NewProviders(contract.Provider{}, metal3.Provider{}), &poolsOf{kinds: cached}, server)
	want, err = a.resolve(t.Context(), namespace, ipam.Want{Ask: ipam.Ask{Device: ipam.Device{Index: 3}, AskedBy: "label x of y"}, Pool: pool})
	return want, server.read, err
}

func TestNameWithoutAKindMeansTheFirstPoolThatCanBeUsed(t *testing.T) {
	const m3, in, global = "IPPool", contract.InClusterKind, contract.GlobalInClusterKind
	first, second := metal3.PoolNamed("lab"), contract.InClusterPool("lab")
	type kinds = map[string]state
	for name, test := range map[string]struct {
		cached, live kinds
		want         ipam.PoolReference
		// asked are the kinds that are looked for at the API server.
		asked []string
	}{
		"an IPPool":                           {cached: kinds{m3: there}, want: first},
		"an IPPool beside one that is of all": {cached: kinds{m3: there, global: there}, want: first},
		"an InClusterIPPool":                  {cached: kinds{in: there}, want: second},
		"an InClusterIPPool without metal3":   {cached: kinds{m3: notServed, in: there}, want: second},
		"an IPPool without the other kind":    {cached: kinds{m3: there, in: notServed}, want: first},
		"an IPPool that is being deleted":     {cached: kinds{m3: terminates, in: there}, want: second},
		"an InClusterIPPool that is":          {cached: kinds{m3: there, in: terminates}, want: first},
		"both":                                {cached: kinds{m3: there, in: there}, live: kinds{m3: there, in: there}, want: first, asked: []string{m3, in}},
		"both, the first of which goes by now": {
			cached: kinds{m3: there, in: there}, live: kinds{m3: terminates, in: there}, want: second, asked: []string{m3, in}},
		"one that was made a moment ago": {live: kinds{in: there}, want: second, asked: []string{m3, in}},
	} {
		t.Run(name, func(t *testing.T) {
			got, asked, err := resolve(t, test.cached, test.live, "ns", ipam.PoolReference{Name: "lab"})
			if err != nil || got.Pool != test.want || len(got.AlsoMissing) > 0 {
				t.Errorf("got %v (or %v) and error %v, want %v", got.Pool, got.AlsoMissing, err, test.want)
			}
			if !slices.Equal(asked, test.asked) {
				t.Errorf("the API server was asked for %v, want %v", asked, test.asked)
			}
		})
	}
}

// What is missing is told by the provider of the first.
func TestNameThatNoPoolHasMayMeanEitherKind(t *testing.T) {
	type kinds = map[string]state
	for name, test := range map[string]struct {
		live      kinds
		namespace string
	}{
		"none":                     {nil, "ns"},
		"none that stays":          {kinds{"IPPool": terminates, contract.InClusterKind: terminates}, "ns"},
		"kinds that nobody serves": {kinds{"IPPool": notServed, contract.InClusterKind: notServed, contract.GlobalInClusterKind: notServed}, "ns"},
		"one of all that goes":     {kinds{contract.GlobalInClusterKind: terminates}, "ns"},
		"pools elsewhere":          {kinds{"IPPool": there, contract.InClusterKind: there}, "other"},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := resolve(t, test.live, test.live, test.namespace, ipam.PoolReference{Name: "lab"})
			if err != nil || got.Pool != metal3.PoolNamed("lab") || !slices.Equal(got.AlsoMissing, []ipam.PoolReference{contract.InClusterPool("lab")}) {
				t.Errorf("got %v (or %v) and error %v, want the IPPool or an InClusterIPPool", got.Pool, got.AlsoMissing, err)
			}
		})
	}
}

// A machine keeps the address of a pool that goes: a name that meant it still may.
func TestNameOfPoolsThatCannotBeUsedMeansAnyOfThem(t *testing.T) {
	going := &poolsOf{kinds: map[string]state{contract.InClusterKind: terminates}}
	a := New(ipam.NewProviders(contract.Provider{}, metal3.Provider{}), going, going)
	machine := ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp"}}

	got, err := a.Meant(t.Context(), machine, askOf(ipam.PoolReference{Name: "lab"}))

	if want := []ipam.PoolReference{metal3.PoolNamed("lab"), contract.InClusterPool("lab")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v and error %v, want %v", got, err, want)
	}
}

func TestNameOfAPoolOfAllNamespacesIsRefusedWithTheFullName(t *testing.T) {
	live := map[string]state{contract.GlobalInClusterKind: there}
	_, _, err := resolve(t, nil, live, "ns", ipam.PoolReference{Name: "lab"})

	refusal, ok := ipam.AsRefusal(err)
	if !ok || refusal.Reason != ipam.PoolNotFound || !strings.HasSuffix(refusal.Message, "write GlobalInClusterIPPool/lab into annotation pools.capv-static-ip.dev/3") {
		t.Fatalf("got error %v, want a refusal that says how to ask for it", err)
	}
	either := []ipam.Shortage{{Pool: metal3.PoolNamed("lab"), Needed: 1}, {Pool: contract.InClusterPool("lab"), Needed: 1}}
	if !slices.Equal(refusal.Shortages, either) {
		t.Errorf("the owner waits for %v, want %v", refusal.Shortages, either)
	}
}

func TestNameOfAPoolOfAllNamespacesThatSaysWhomItIsForMeansIt(t *testing.T) {
	live := map[string]state{contract.GlobalInClusterKind: limited}
	got, _, err := resolve(t, nil, live, "ns", ipam.PoolReference{Name: "lab"})
	want := ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: contract.GlobalInClusterKind, Name: "lab"}
	missing := []ipam.PoolReference{metal3.PoolNamed("lab"), contract.InClusterPool("lab")}
	if err != nil || got.Pool != want || !slices.Equal(got.AlsoMissing, missing) {
		t.Errorf("got %v (or %v) and error %v, want %v or %v", got.Pool, got.AlsoMissing, err, want, missing)
	}
}

func TestReferenceWithAKindIsCompletedWithoutARead(t *testing.T) {
	global := ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: contract.GlobalInClusterKind, Name: "lab"}
	rangePool := ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "Range", Name: "lab"}
	others := ipam.PoolReference{APIGroup: "ipam.example.com", Kind: "IPPool", Name: "lab"}
	for ref, want := range map[ipam.PoolReference]ipam.PoolReference{
		{Kind: "IPPool", Name: "lab"}:                     metal3.PoolNamed("lab"),
		{Kind: contract.InClusterKind, Name: "lab"}:       contract.InClusterPool("lab"),
		{Kind: contract.GlobalInClusterKind, Name: "lab"}: global,
		{Kind: "Range", Name: "lab"}:                      rangePool,
		others:                                            others,
	} {
		broken := map[string]state{"IPPool": broken, contract.InClusterKind: broken, contract.GlobalInClusterKind: broken}
		got, _, err := resolve(t, broken, broken, "ns", ref)
		if err != nil || got.Pool != want || len(got.AlsoMissing) > 0 {
			t.Errorf("%v: got %v (or %v) and error %v, want %v", ref, got.Pool, got.AlsoMissing, err, want)
		}
	}
}

// A pool that cannot be looked for may be there: another one must not be taken for it.
func TestNameIsNotResolvedWithAPoolThatCannotBeReadUnknown(t *testing.T) {
	type kinds = map[string]state
	for name, test := range map[string]struct{ cached, live kinds }{
		"the first kind":               {kinds{"IPPool": broken, contract.InClusterKind: there}, kinds{contract.InClusterKind: there}},
		"the first kind, live":         {nil, kinds{"IPPool": broken, contract.InClusterKind: there}},
		"the kind of all namespaces":   {nil, kinds{contract.GlobalInClusterKind: broken}},
		"the second kind, beside both": {kinds{"IPPool": there, contract.InClusterKind: there}, kinds{"IPPool": there, contract.InClusterKind: broken}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _, err := resolve(t, test.cached, test.live, "ns", ipam.PoolReference{Name: "lab"}); !errors.Is(err, errBroken) {
				t.Errorf("got %v and error %v, want that of the read", got.Pool, err)
			}
		})
	}
}
