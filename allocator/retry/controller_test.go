package retry

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
)

var ref = allocator.PoolReference{APIGroup: "ipam.example.org", Kind: "Pool", Name: "pool"}

// fakePools have so many free addresses, by namespace;
// one without a namespace serves all. Those that are not there are refused.
type fakePools map[string]uint64

func (p fakePools) Pool(_ context.Context, _ client.Reader, machine allocator.Machine, want allocator.Want) (allocator.Pool, error) {
	namespace := machine.Namespace
	if _, global := p[""]; global {
		namespace = ""
	}
	free, ok := p[namespace]
	if !ok {
		return allocator.Pool{}, allocator.Refuse(allocator.PoolNotFound, "not found")
	}
	object := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: want.Pool.Name}}
	return allocator.Pool{Object: object, Reference: want.Pool, Free: func(claims []string) (uint64, uint64) {
		return free, uint64(len(claims))
	}}, nil
}

// controllerOn makes a reconciler on MachineSets that wait for the pool, one in
// each of these namespaces, whose clock stands still.
func controllerOn(t *testing.T, p fakePools, funcs interceptor.Funcs, namespaces ...string) *reconciler {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clusterv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(funcs)
	for _, kind := range allocator.OwnerKinds() {
		builder.WithIndex(allocator.MetadataOf(capi.InScheme(scheme, kind)), byPool, indexByPool)
	}
	for _, namespace := range namespaces {
		builder.WithObjects(&clusterv1.MachineSet{ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "md", UID: types.UID(namespace),
			Annotations: map[string]string{allocator.RefusedByAnnotation: allocator.Lacks{ref: 1}.String()},
		}})
	}
	return &reconciler{pools: p, client: builder.Build(), now: func() time.Time { return start }, records: map[poolKey]*record{}}
}

// waitingIn lists the namespaces whose MachineSet waits.
func waitingIn(t *testing.T, r *reconciler) []string {
	t.Helper()
	owners, err := r.waiting(t.Context(), poolKey{PoolReference: ref})
	if err != nil {
		t.Fatal(err)
	}
	var namespaces []string
	for _, owner := range owners {
		namespaces = append(namespaces, owner.Namespace)
	}
	return namespaces
}

func TestPoolOfOneNamespaceServesItsOwnOwners(t *testing.T) {
	r := controllerOn(t, fakePools{"b": 5, "c": 0}, interceptor.Funcs{}, "a", "b", "c")
	for _, namespace := range []string{"a", "b", "c"} {
		if _, err := r.Reconcile(t.Context(), poolKey{ref, namespace}); err != nil {
			t.Fatal(err)
		}
	}
	if got := waitingIn(t, r); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("still waiting: %v, want a and c", got)
	}
}

func TestPoolOfTheClusterServesOwnersOfAllNamespaces(t *testing.T) {
	for _, from := range []string{"", "c"} {
		t.Run("told of in namespace "+from, func(t *testing.T) {
			r := controllerOn(t, fakePools{"": 2}, interceptor.Funcs{}, "a", "b", "c")
			for range 2 {
				if _, err := r.Reconcile(t.Context(), poolKey{ref, from}); err != nil {
					t.Fatal(err)
				}
			}
			if got := waitingIn(t, r); !slices.Equal(got, []string{"c"}) {
				t.Errorf("still waiting: %v, want c: there are two addresses", got)
			}
		})
	}
}

func TestTouchThatFailsIsTriedAgain(t *testing.T) {
	fail := true
	r := controllerOn(t, fakePools{"a": 1}, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if fail {
				return errors.New("the API server is away")
			}
			return c.Patch(ctx, obj, patch, opts...)
		},
	}, "a")
	if _, err := r.Reconcile(t.Context(), poolKey{ref, "a"}); err == nil {
		t.Error("got no error")
	}
	fail = false
	if _, err := r.Reconcile(t.Context(), poolKey{ref, "a"}); err != nil {
		t.Fatal(err)
	}
	if got := waitingIn(t, r); len(got) > 0 {
		t.Errorf("still waiting: %v", got)
	}
}

func TestPoolIsLookedAtAgainWhileSomebodyWaits(t *testing.T) {
	for name, test := range map[string]struct {
		pools   fakePools
		waiting []string
		again   bool
	}{
		"that does not exist": {fakePools{}, []string{"a"}, true},
		"that is full":        {fakePools{"a": 0}, []string{"a"}, true},
		"that nobody wants":   {fakePools{"a": 0}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := controllerOn(t, test.pools, interceptor.Funcs{}, test.waiting...).Reconcile(t.Context(), poolKey{ref, "a"})
			want := reconcile.Result{}
			if test.again {
				want.RequeueAfter = resync
			}
			if err != nil || result != want {
				t.Errorf("got %+v, %v; want %+v", result, err, want)
			}
		})
	}
}
