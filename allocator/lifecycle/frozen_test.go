package lifecycle

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// frozenPool is the pool of all holdings here, which says that it is frozen.
func frozenPool() *ipamv1.IPPool {
	pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
	kube.SetAnnotation(pool, ipam.FrozenAnnotation, "restore")
	return pool
}

// looksForFrost has a Reconciler look for what is frozen, and returns what it tells.
func (r *Reconciler) looksForFrost(t *testing.T) *events.FakeRecorder {
	t.Helper()
	if err := corev1.AddToScheme(r.client.Scheme()); err != nil {
		t.Fatal(err)
	}
	told := events.NewFakeRecorder(20)
	r.events = told
	r.freezer = allocator.Freezer{Providers: r.providers, Live: r.live}
	return told
}

// thaw takes the mark off the pool.
func (r *Reconciler) thaw(t *testing.T) {
	t.Helper()
	pool := frozenPool()
	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
		t.Fatal(err)
	}
	pool.Annotations = nil
	if err := r.client.Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
}

func TestStepsThatGiveBackAreNotTakenWhileFrozen(t *testing.T) {
	kept := []step{cool, release, unprotect, reap, handBack, dropFinalizers, deleteStray, removeClaimFinalizer, giveBack}
	all := append([]step{idle, adopt, claimTaken, protect, recreate, deleteFailed, report, verify, note, awaitMachine, markMoved}, kept...)
	for _, s := range all {
		if got, want := s.givesBack(absent(), bound()), slices.Contains(kept, s); got != want {
			t.Errorf("%s gives back: %t, want %t", s, got, want)
		}
	}
}

// Its claim is made anew then, and its address stays protected meanwhile.
func TestClaimOfALivingMachineGoesOnBeingReplacedWhileFrozen(t *testing.T) {
	for name, test := range map[string]struct {
		machine machineState
		holding holding
		want    bool
	}{
		"living":                    {living(), bound(), false},
		"being deleted":             {dying(), bound(), true},
		"gone":                      {absent(), bound(), true},
		"not the one that it is of": {living(), bound(ownedBy("other")), true},
	} {
		if got := removeClaimFinalizer.givesBack(test.machine, test.holding); got != test.want {
			t.Errorf("%s: got %t, want %t", name, got, test.want)
		}
	}
}

func dyingMachine(m *capi.VSphereMachine) {
	deleted := metav1.NewTime(now)
	m.DeletionTimestamp, m.Finalizers = &deleted, []string{ipam.ReleaseFinalizer}
}

func TestMachineStaysWithItsAddressWhileItsPoolIsFrozen(t *testing.T) {
	machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), dyingMachine)
	r := reconciler(t, machine, answering(adoptedOnce), unused(naming("pool-10-0-0-1")), frozenPool())
	told := r.looksForFrost(t)

	result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(machine)})

	if err != nil || result.RequeueAfter != allocator.FrozenCheck {
		t.Errorf("got %v, %v; want it looked at again after %s", result, err, allocator.FrozenCheck)
	}
	address := answering()
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !ipam.IsProtected(address) {
		t.Errorf("the address is %+v, %v; want it protected", address.ObjectMeta, err)
	}
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(machine), machine); err != nil {
		t.Errorf("the machine does not stay: %v", err)
	}
	const want = `Normal ReleaseFrozen Keeping 10.0.0.1, and this machine, because IPPool "pool" in namespace "ns" is frozen (restore): ` +
		`both go when that is over; to end it, take annotation capv-static-ip.dev/frozen off it`
	if got := <-told.Events; got != want {
		t.Errorf("it told\n%s\nwant\n%s", got, want)
	}

	r.thaw(t)
	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(machine), machine); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("got error %v, want the machine to be gone", err)
	}
}

// Else the machine would go without, as if its provider were down.
func TestMachineStaysIfNobodyCanTellWhetherItIsFrozen(t *testing.T) {
	machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), dyingMachine)
	r := reconciler(t, machine, answering(adoptedOnce), unused(naming("pool-10-0-0-1")))
	r.looksForFrost(t)
	r.freezer.Live = interceptor.NewClient(r.client.(client.WithWatch), interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return errors.New("it does not answer")
		},
	})
	for _, at := range []time.Time{now, now.Add(2 * providerPatience)} {
		r.at(at)
		_, _ = r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(machine)})
	}
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(machine), machine); err != nil || !slices.Contains(machine.Finalizers, ipam.ReleaseFinalizer) {
		t.Errorf("the machine has the finalizers %v, error %v; want ours", machine.Finalizers, err)
	}
}

func TestClaimOfNobodyIsReapedWhenTheFreezeIsOver(t *testing.T) {
	claim := unused(naming("pool-10-0-0-1"))
	r := reconciler(t, claim, answering(), frozenPool())
	r.looksForFrost(t)
	r.at(now)
	r.settle(t.Context(), t) // it is seen
	r.at(now.Add(2 * restorePatience))
	r.settle(t.Context(), t)
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil || !claim.DeletionTimestamp.IsZero() {
		t.Fatalf("the claim is %+v, %v; want it to stay", claim.ObjectMeta, err)
	}

	r.thaw(t)
	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("got error %v, want the claim to be gone", err)
	}
}

func TestAddressOfALivingMachineIsProtectedWhileFrozen(t *testing.T) {
	machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), func(m *capi.VSphereMachine) { m.Finalizers = []string{ipam.ReleaseFinalizer} })
	r := reconciler(t, machine, answering(unguarded), unused(naming("pool-10-0-0-1")), frozenPool())
	told := r.looksForFrost(t)
	r.settle(t.Context(), t)

	address := answering()
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !ipam.IsProtected(address) {
		t.Errorf("the address is %+v, %v; want it protected", address.ObjectMeta, err)
	}
	if got := <-told.Events; !strings.Contains(got, "AddressBound") {
		t.Errorf("it told %s, want that the address is bound", got)
	}
}

// withoutItsClaim makes an address one that was taken for cp-0 an hour ago.
func withoutItsClaim(a *ipamv1.IPAddress) {
	a.OwnerReferences = nil
	kube.SetAnnotation(a, ipam.RequestedByAnnotation, "none")
	ipam.Use(a, ipam.Stamp{Time: now.Add(-time.Hour), Request: "request"})
}

func TestAddressThatWasTakenForNobodyIsGivenBackWhenTheFreezeIsOver(t *testing.T) {
	address := answering(withoutItsClaim)
	r := reconciler(t, address, frozenPool())
	r.looksForFrost(t)
	r.at(now)
	r.settle(t.Context(), t) // it is seen
	r.at(now.Add(2 * restorePatience))
	r.settle(t.Context(), t)
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !ipam.IsTaken(address) {
		t.Fatalf("the address is %+v, %v; want it as it was taken", address.ObjectMeta, err)
	}

	r.thaw(t)
	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("got error %v, want the address to be gone", err)
	}
}

// It is the machine's, and without its claim it would be lost.
func TestAddressThatWasTakenForAMachineIsClaimedWhileFrozen(t *testing.T) {
	machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), func(m *capi.VSphereMachine) { m.Finalizers = []string{ipam.ReleaseFinalizer} })
	address := answering(withoutItsClaim)
	r := reconciler(t, machine, address, frozenPool())
	r.looksForFrost(t)
	r.settle(t.Context(), t)

	claim := &ipamv1.IPClaim{}
	if err := r.live.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "cp-0-0"}, claim); err != nil {
		t.Fatal(err)
	}
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || ipam.IsTaken(address) || !ipam.IsProtected(address) {
		t.Errorf("the address is %+v, %v; want it protected, and its claim's", address.ObjectMeta, err)
	}
}
