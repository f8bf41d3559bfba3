package retry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

var ref = ipam.PoolReference{APIGroup: "ipam.example.org", Kind: "Pool", Name: "pool"}

// fakePools have so many free addresses, by namespace;
// one without a namespace serves all. Those that are not there are refused.
type fakePools map[string]uint64

func (p fakePools) Pool(_ context.Context, _ client.Reader, machine ipam.Machine, want ipam.Want) (ipam.Pool, error) {
	namespace := machine.Namespace
	if _, global := p[""]; global {
		namespace = ""
	}
	free, ok := p[namespace]
	if !ok {
		return ipam.Pool{}, ipam.Refuse(ipam.PoolNotFound, "not found")
	}
	object := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: want.Pool.Name}}
	return ipam.Pool{Object: object, Reference: want.Pool, Free: func(claims []string) (uint64, uint64) {
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
	for _, kind := range OwnerKinds() {
		builder.WithIndex(kube.MetadataOf(capi.InScheme(scheme, kind)), byPool, indexByPool)
	}
	for _, namespace := range namespaces {
		builder.WithStatusSubresource(&clusterv1.MachineSet{}).WithObjects(&clusterv1.MachineSet{ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "md", UID: types.UID(namespace),
			Annotations: map[string]string{ipam.RefusedByAnnotation: Shortages{{Pool: ref}: 1}.String()},
		}})
	}
	r := newReconciler(p, builder.Build())
	r.now = func() time.Time { return start }
	r.watched[schema.GroupKind{Group: ref.APIGroup, Kind: ref.Kind}] = true
	return r
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

// countingPools are not there, and count how often they are looked for.
type countingPools struct{ reads *int }

func (p countingPools) Pool(context.Context, client.Reader, ipam.Machine, ipam.Want) (ipam.Pool, error) {
	*p.reads++
	return ipam.Pool{}, ipam.Refuse(ipam.PoolNotFound, "not found")
}

func TestReadsOfPoolsThatAreNotWatchedAreBounded(t *testing.T) {
	r := controllerOn(t, nil, interceptor.Funcs{}, "a", "b")
	reads := 0
	r.pools, r.watched = countingPools{&reads}, nil
	for range 100 {
		if result, err := r.Reconcile(t.Context(), poolKey{ref, "a"}); err != nil || result.RequeueAfter == 0 {
			t.Fatalf("got %+v, %v", result, err)
		}
	}
	if reads != namespaceReadsBurst {
		t.Errorf("%d reads for one namespace, want %d", reads, namespaceReadsBurst)
	}
	if _, err := r.Reconcile(t.Context(), poolKey{ref, "b"}); err != nil || reads != namespaceReadsBurst+1 {
		t.Errorf("%d reads, %v: another namespace has to wait", reads, err)
	}
}

// patrolAt looks after the owners of a namespace so long after the start.
func patrolAt(t *testing.T, r *reconciler, after time.Duration, namespace string) time.Duration {
	t.Helper()
	r.now = func() time.Time { return start.Add(after) }
	result, err := r.Reconcile(t.Context(), poolKey{Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	return result.RequeueAfter
}

func TestOwnerOfAPausedClusterIsNotTouchedInVain(t *testing.T) {
	r := controllerOn(t, nil, interceptor.Funcs{}, "a", "b")
	for _, namespace := range []string{"a", "b"} {
		set := &clusterv1.MachineSet{}
		if err := r.client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "md"}, set); err != nil {
			t.Fatal(err)
		}
		set.Annotations[ipam.RefusedByAnnotation] = string(ipam.AddressInUse)
		if namespace == "a" {
			set.Annotations[clusterv1.PausedAnnotation] = ""
		}
		if err := r.client.Update(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		patrolAt(t, r, 0, namespace)
		patrolAt(t, r, time.Minute, namespace)
	}
	owners, err := r.waiting(t.Context(), poolKey{})
	if err != nil || len(owners) != 1 || owners[0].Namespace != "a" {
		t.Errorf("still waiting: %v, %v; want the one that is paused", owners, err)
	}
}

// They would be refused for certain.
func TestOwnerOfAFrozenNamespaceIsTouchedWhenThatIsOver(t *testing.T) {
	r := controllerOn(t, nil, interceptor.Funcs{}, "a", "b")
	if err := corev1.AddToScheme(r.client.Scheme()); err != nil {
		t.Fatal(err)
	}
	r.freezer = allocator.Freezer{Live: r.client}
	frozen := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{ipam.FrozenAnnotation: "restore"}}}
	if err := r.client.Create(t.Context(), frozen); err != nil {
		t.Fatal(err)
	}
	for _, namespace := range []string{"a", "b"} {
		refusedFor(t, r, namespace, ipam.Frozen)
		patrolAt(t, r, 0, namespace)
		patrolAt(t, r, time.Minute, namespace)
	}
	if owners, err := r.waiting(t.Context(), poolKey{}); err != nil || len(owners) != 1 || owners[0].Namespace != "a" {
		t.Fatalf("still waiting: %v, %v; want the one of the namespace that is frozen", owners, err)
	}

	if err := r.client.Delete(t.Context(), frozen); err != nil {
		t.Fatal(err)
	}
	if keys := r.ownersIn(t.Context(), frozen); len(keys) != 1 || keys[0] != (poolKey{Namespace: "a"}) {
		t.Errorf("the end of it leads to %v", keys)
	}
	patrolAt(t, r, time.Minute, "a")

	if owners, err := r.waiting(t.Context(), poolKey{}); err != nil || len(owners) > 0 {
		t.Errorf("still waiting: %v, %v; want nobody", owners, err)
	}
}

func TestOwnerIsNotTouchedForAPoolThatIsFrozen(t *testing.T) {
	r := controllerOn(t, nil, interceptor.Funcs{}, "a")
	r.pools = frozenPools{}

	result, err := r.Reconcile(t.Context(), poolKey{ref, "a"})

	if err != nil || result.RequeueAfter != resync || len(waitingIn(t, r)) != 1 {
		t.Errorf("got %v, %v and %v; want that it waits, and the pool is looked at again after %s", result, err, waitingIn(t, r), resync)
	}
}

// frozenPools have many free addresses, and are frozen.
type frozenPools struct{}

func (frozenPools) Pool(ctx context.Context, reader client.Reader, machine ipam.Machine, want ipam.Want) (ipam.Pool, error) {
	pool, err := fakePools{machine.Namespace: 100}.Pool(ctx, reader, machine, want)
	kube.SetAnnotation(pool.Object, ipam.FrozenAnnotation, "")
	return pool, err
}

// refusedFor has the MachineSet of a namespace wait because of this.
func refusedFor(t *testing.T, r *reconciler, namespace string, reason ipam.Reason) {
	t.Helper()
	set := &clusterv1.MachineSet{}
	if err := r.client.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "md"}, set); err != nil {
		t.Fatal(err)
	}
	set.Annotations[ipam.RefusedByAnnotation] = string(reason)
	if err := r.client.Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
}

func TestManyOwnersAreTouchedByAndBy(t *testing.T) {
	r := controllerOn(t, nil, interceptor.Funcs{}, "a")
	for i := range 3 * atOnce {
		set := &clusterv1.MachineSet{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)),
			Annotations: map[string]string{ipam.RefusedByAnnotation: "AddressInUse"}}}
		if err := r.client.Create(t.Context(), set); err != nil {
			t.Fatal(err)
		}
	}
	left := func() int {
		owners, err := r.waiting(t.Context(), poolKey{Namespace: "a"})
		if err != nil {
			t.Fatal(err)
		}
		return len(owners)
	}
	patrolAt(t, r, 0, "a")
	for _, want := range []int{2*atOnce + 1, atOnce + 1, atOnce + 1} { // then there have been too many
		if wait := patrolAt(t, r, firstInterval, "a"); wait != touchDelay || left() != want {
			t.Errorf("%d are left, looks again after %s; want %d and %s", left(), wait, want, touchDelay)
		}
	}
	patrolAt(t, r, firstInterval+time.Second, "a")
	if got := left(); got != 1 {
		t.Errorf("%d are left, want the one that waits for a pool", got)
	}
}
