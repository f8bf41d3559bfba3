package aside

import (
	"context"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// verdict is an engine that says the same of each claim.
type verdict struct {
	pool          client.Object
	unfit, frozen bool
}

func (v verdict) IsStillUnfit(context.Context, ipam.Claim, ipam.SetAside) (client.Object, bool, error) {
	return v.pool, v.unfit, nil
}

func (v verdict) Frozen(context.Context, string, ipam.PoolReference) (bool, error) {
	return v.frozen, nil
}

func testPool() *ipamv1.IPPool {
	return &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
}

// asideClaim is one that keeps 10.0.0.1 from being handed out.
func asideClaim() *ipamv1.IPClaim {
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "claim"}}
	claim.Spec.Pool.Name = "pool"
	kube.SetLabel(claim, ipam.SetAsideLabel, "")
	kube.SetAnnotation(claim, ipam.SetAsideAnnotation, `{"ip":"10.0.0.1","cause":"Gateway"}`)
	return claim
}

// reviewer is a reconciler over these objects, and what it tells.
func reviewer(t *testing.T, says verdict, objects ...client.Object) (*reconciler, *events.FakeRecorder) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := ipamv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, told := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(), events.NewFakeRecorder(10)
	return &reconciler{
		engine: says, provider: metal3.Provider{}, client: c, live: c, events: told,
		known: map[types.NamespacedName]ipam.SetAside{},
	}, told
}

func (r *reconciler) review(t *testing.T) time.Duration {
	t.Helper()
	got, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0-0"}})
	if err != nil {
		t.Fatal(err)
	}
	return got.RequeueAfter
}

func (r *reconciler) hasClaim(t *testing.T) bool {
	t.Helper()
	err := r.live.Get(t.Context(), types.NamespacedName{Namespace: "ns", Name: "cp-0-0"}, &ipamv1.IPClaim{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestClaimIsDeletedWhenItsAddressIsFitAgain(t *testing.T) {
	r, told := reviewer(t, verdict{pool: testPool()}, asideClaim())

	if r.review(t); r.hasClaim(t) {
		t.Error("the claim is there")
	}
	if len(told.Events) > 0 {
		t.Errorf("it told: %s", <-told.Events)
	}
}

func TestClaimIsNotDeletedWhileItsPoolIsFrozen(t *testing.T) {
	r, _ := reviewer(t, verdict{pool: testPool(), frozen: true}, asideClaim())

	if wait := r.review(t); wait != allocator.FrozenCheck || !r.hasClaim(t) {
		t.Errorf("it looks again after %s, and the claim is there: %t; want %s and the claim", wait, r.hasClaim(t), allocator.FrozenCheck)
	}
}

func TestPoolIsToldOnceOfAnAddressThatStaysUnfit(t *testing.T) {
	r, told := reviewer(t, verdict{pool: testPool(), unfit: true}, asideClaim())

	for range 3 {
		if wait := r.review(t); wait != reviewInterval || !r.hasClaim(t) {
			t.Fatalf("it looks again after %s, and the claim is there: %t; want %s and the claim", wait, r.hasClaim(t), reviewInterval)
		}
	}
	if len(told.Events) != 1 {
		t.Errorf("it told %d times, want once", len(told.Events))
	}
}

// A claim of that name may be set aside again, for another address.
func TestPoolIsToldAgainOfAnAddressThatIsSetAsideAgain(t *testing.T) {
	r, told := reviewer(t, verdict{pool: testPool(), unfit: true}, asideClaim())
	r.review(t)
	claim := asideClaim()
	if err := r.client.Delete(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	r.review(t)
	claim = asideClaim()
	if err := r.client.Create(t.Context(), claim); err != nil {
		t.Fatal(err)
	}

	r.review(t)

	if len(told.Events) != 2 {
		t.Errorf("it told %d times, want twice", len(told.Events))
	}
}

// Another request may have been answered with the address before.
func TestClaimThatAMachineMayStillBeStoredWithIsNotDeleted(t *testing.T) {
	claim := asideClaim()
	ipam.Use(claim, ipam.Stamp{Time: time.Now(), Request: "request again"})
	r, _ := reviewer(t, verdict{pool: testPool()}, claim)

	if wait := r.review(t); wait <= 0 || !r.hasClaim(t) {
		t.Errorf("it looks again after %s, and the claim is there: %t; want both", wait, r.hasClaim(t))
	}
}

// metal3 never comes to the claims of a pool that does not exist.
func TestClaimThatIsBeingDeletedGoesIfItsPoolIsGone(t *testing.T) {
	for name, test := range map[string]struct {
		pools  []client.Object
		exists bool
	}{
		"pool gone":  {nil, false},
		"pool there": {[]client.Object{testPool()}, true},
	} {
		t.Run(name, func(t *testing.T) {
			claim, gone := asideClaim(), metav1.Now()
			claim.DeletionTimestamp, claim.Finalizers = &gone, []string{ipamv1.IPClaimFinalizer}
			r, _ := reviewer(t, verdict{unfit: true}, append(test.pools, claim)...)

			if wait := r.review(t); wait != reviewInterval {
				t.Errorf("it looks again after %s, want %s", wait, reviewInterval)
			}
			if exists := r.hasClaim(t); exists != test.exists {
				t.Errorf("the claim is there: %t, want %t", exists, test.exists)
			}
		})
	}
}

func TestClaimThatIsNotSetAsideIsLeftAsItIs(t *testing.T) {
	claim := asideClaim()
	claim.Labels = nil
	r, _ := reviewer(t, verdict{}, claim)

	if wait := r.review(t); wait != 0 || !r.hasClaim(t) {
		t.Errorf("it looks again after %s, and the claim is there: %t; want no more than the claim", wait, r.hasClaim(t))
	}
}
