package lifecycle

import (
	"net/netip"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// copyOf is what a machine of this name has that was recreated with 10.0.0.1: a claim,
// and its address with this UID. Copies of one machine have the same address.
func copyOf(machine string, uid types.UID) (*ipamv1.IPClaim, *ipamv1.IPAddress) {
	claim := unused(func(c *ipamv1.IPClaim) {
		c.Name, c.UID = ipam.ClaimName(machine, ipam.Slot{Device: 0}), "claim of "+uid
		kube.SetAnnotation(c, ipam.RecreatedAnnotation, "10.0.0.1")
		c.Status.Address = &corev1.ObjectReference{Name: "of-" + machine}
	})
	address := answering(func(a *ipamv1.IPAddress) {
		a.Name, a.UID, a.Spec.Claim.Name = "of-"+machine, uid, claim.Name
		a.OwnerReferences[0].UID = claim.UID
	})
	return claim, address
}

// holdingOf is the holding of a claim and its address, for a machine that is bound to
// 10.0.0.1.
func holdingOf(claim *ipamv1.IPClaim, address *ipamv1.IPAddress) *holding {
	h := &holding{annotated: &ipam.Binding{Pool: metal3.PoolNamed("pool"), Claim: claim.Name, Address: netip.MustParsePrefix("10.0.0.1/24")}}
	readClaim, readAddress := metal3.Provider{}.ReadClaim(claim), metal3.Provider{}.ReadAddress(address)
	h.claim, h.address = &readClaim, &readAddress
	return h
}

// livingState is that of cp-0 with the UID "uid".
func livingState(holdings ...*holding) *state {
	return &state{machineState: living(), namespace: "ns", object: cp0(), holdings: holdings}
}

// stored reads an object that a test has made, which fills it, or tells that it is gone.
func (r *Reconciler) stored(t *testing.T, obj client.Object) bool {
	t.Helper()
	err := r.client.Get(t.Context(), client.ObjectKeyFromObject(obj), obj)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return err == nil
}

// outcome is what has become of a claim that was recreated.
func (r *Reconciler) outcome(t *testing.T, claim *ipamv1.IPClaim, address *ipamv1.IPAddress) string {
	t.Helper()
	switch exists := r.stored(t, claim); {
	case !exists && r.stored(t, address) && ipam.IsProtected(address):
		return "gone, its address protected"
	case !exists:
		return "gives way"
	case ipam.IsRecreated(claim):
		return "waits"
	}
	return "stays"
}

func TestRecreatedClaimStaysOnlyIfNobodyElseHasItsAddress(t *testing.T) {
	for name, test := range map[string]struct {
		other func(*ipamv1.IPClaim, *ipamv1.IPAddress)
		want  string
	}{
		"another address":                       {func(_ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Spec.Address = "10.0.0.2" }, "stays"},
		"that of another pool":                  {func(_ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Spec.Pool.Name = "other" }, "stays"},
		"recreated, the later one":              {func(*ipamv1.IPClaim, *ipamv1.IPAddress) {}, "waits"},
		"recreated, the earlier one":            {func(_ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.UID = "a" }, "gives way"},
		"found to be nobody else's":             {func(c *ipamv1.IPClaim, _ *ipamv1.IPAddress) { delete(c.Annotations, ipam.RecreatedAnnotation) }, "gives way"},
		"an address of which the claim is gone": {func(c *ipamv1.IPClaim, _ *ipamv1.IPAddress) { c.Name = "another" }, "gives way"},
	} {
		t.Run(name, func(t *testing.T) {
			claim, address := copyOf("cp-0", "b")
			otherClaim, otherAddress := copyOf("cp-1", "c")
			test.other(otherClaim, otherAddress)
			r := reconciler(t, cp0(onItsDevice), claim, address, otherClaim, otherAddress)
			r.events = events.NewFakeRecorder(10)
			r.stored(t, claim)
			r.stored(t, address)

			if err := r.verify(t.Context(), livingState(), holdingOf(claim, address)); err != nil {
				t.Fatal(err)
			}
			if got := r.outcome(t, claim, address); got != test.want {
				t.Errorf("it %s, want that it %s", got, test.want)
			}
			if !r.stored(t, otherClaim) || !r.stored(t, otherAddress) || !ipam.IsProtected(otherAddress) {
				t.Error("what the other one has was taken back")
			}
		})
	}
}

// If the cache still shows the mark of the other one, neither would give way.
func TestRecreatedClaimGivesWayToOneThatTheCacheShowsAsRecreated(t *testing.T) {
	claim, address := copyOf("cp-0", "b")
	otherClaim, otherAddress := copyOf("cp-1", "c")
	r := reconciler(t, cp0(onItsDevice), claim, address, otherClaim, otherAddress)
	r.events = events.NewFakeRecorder(10)
	verified := otherClaim.DeepCopy()
	delete(verified.Annotations, ipam.RecreatedAnnotation)
	r.behind(t, cp0(onItsDevice), claim, address, verified, otherAddress)
	r.stored(t, claim)
	r.stored(t, address)

	if err := r.verify(t.Context(), livingState(), holdingOf(claim, address)); err != nil {
		t.Fatal(err)
	}
	if got := r.outcome(t, claim, address); got != "gives way" {
		t.Errorf("it %s, want that it gives way", got)
	}
}

func TestRecreatedClaimIsNotConfirmedForAMachineThatWasReplaced(t *testing.T) {
	claim, address := copyOf("cp-0", "b")
	r := reconciler(t, cp0(onItsDevice, func(m *capi.VSphereMachine) { m.UID = "later" }), claim, address)
	r.stored(t, claim)
	r.stored(t, address)

	if err := r.verify(t.Context(), livingState(), holdingOf(claim, address)); !apierrors.IsConflict(err) {
		t.Errorf("got error %v, want a conflict", err)
	}
	if got := r.outcome(t, claim, address); got != "waits" {
		t.Errorf("it %s, want that it waits", got)
	}
}

// The request of the machine that lives now may wait for this claim.
func TestClaimThatFailedIsDeletedOnlyForTheMachineThatLives(t *testing.T) {
	for name, test := range map[string]struct {
		uid     types.UID
		deleted bool
	}{
		"the same":    {"uid", true},
		"a later one": {"later", false},
	} {
		t.Run(name, func(t *testing.T) {
			claim, address := copyOf("cp-0", "b")
			r := reconciler(t, cp0(func(m *capi.VSphereMachine) { m.UID = test.uid }), claim, address)
			r.events = events.NewFakeRecorder(10)
			r.stored(t, claim)

			err := r.deleteFailed(t.Context(), livingState(), holdingOf(claim, address))

			if apierrors.IsConflict(err) == test.deleted || test.deleted && err != nil {
				t.Errorf("got error %v, want a conflict: %t", err, !test.deleted)
			}
			if exists := r.stored(t, claim); exists == test.deleted {
				t.Errorf("the claim is there: %t, want %t", exists, !test.deleted)
			}
		})
	}
}

func TestBindingThatLostItsClaimJoinsTheOneThatCameBack(t *testing.T) {
	for name, test := range map[string]struct {
		uid    types.UID
		joined bool
	}{
		"of the machine that lives": {"uid", true},
		"of one that was replaced":  {"later", false},
	} {
		t.Run(name, func(t *testing.T) {
			failed, _ := copyOf("cp-0", "b")
			claim, address := copyOf("cp-9", "c")
			machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"))
			machine.UID = test.uid
			r := reconciler(t, machine, failed, claim, address)
			r.stored(t, failed)
			r.stored(t, machine)
			lost, found := holdingOf(failed, address), holdingOf(claim, address)
			lost.address, found.annotated = nil, nil
			s := livingState(lost, found)
			s.object = machine

			err := r.rejoin(t.Context(), s, lost, found)

			if apierrors.IsConflict(err) == test.joined || test.joined && err != nil {
				t.Fatalf("got error %v, want a conflict: %t", err, !test.joined)
			}
			if exists := r.stored(t, failed); exists == test.joined {
				t.Errorf("the claim that failed is there: %t, want %t", exists, !test.joined)
			}
			r.stored(t, machine)
			bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
			if err != nil || (bindings.Bindings[0].Claim == "cp-9-0") != test.joined {
				t.Errorf("the machine is bound by %v (error %v), want by cp-9-0: %t", bindings.Bindings, err, test.joined)
			}
			if (len(s.holdings) == 1 && lost.claim == found.claim && lost.address == found.address) != test.joined {
				t.Errorf("there are %d holdings, and the claim is %v, want one: %t", len(s.holdings), lost.claim, test.joined)
			}
		})
	}
}

// placedAddress is the address that place makes for cp-0 in the in-cluster provider's API.
func placedAddress() *capiipamv1.IPAddress {
	address := contract.Provider{}.Requested("ns", placedBinding()).(*capiipamv1.IPAddress)
	address.Finalizers = []string{ipam.InUseFinalizer}
	address.Annotations = map[string]string{ipam.MachineNameAnnotation: "cp-0"}
	return address
}

func placedBinding() ipam.Binding {
	return ipam.Binding{Pool: contract.InClusterPool("pool"), Claim: "cp-0-0", Address: netip.MustParsePrefix("10.0.0.1/24")}
}

func TestAddressIsPlacedForAClaimUnlessItIsSomebodyElses(t *testing.T) {
	gone := metav1.Now()
	for name, test := range map[string]struct {
		there  func(*capiipamv1.IPAddress)
		placed bool
	}{
		"nothing is there":         {nil, true},
		"its own is there":         {func(*capiipamv1.IPAddress) {}, true},
		"its own is going":         {func(a *capiipamv1.IPAddress) { a.DeletionTimestamp = &gone }, false},
		"another's is in the way":  {func(a *capiipamv1.IPAddress) { a.Annotations[ipam.MachineNameAnnotation] = "cp-9" }, false},
		"another IP is in the way": {func(a *capiipamv1.IPAddress) { a.Spec.Address = "10.0.0.2" }, false},
		"another claim has it":     {func(a *capiipamv1.IPAddress) { a.Name, a.Spec.ClaimRef.Name = "cp-9-0", "cp-9-0" }, false},
		"that of another pool is":  {func(a *capiipamv1.IPAddress) { a.Spec.PoolRef.Name = "other" }, false},
		"of another claim, another pool": {func(a *capiipamv1.IPAddress) {
			a.Name, a.Spec.ClaimRef.Name, a.Spec.PoolRef.Name = "cp-9-0", "cp-9-0", "other"
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			scheme := runtime.NewScheme()
			if err := capiipamv1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			builder := fake.NewClientBuilder().WithScheme(scheme)
			if test.there != nil {
				address := placedAddress()
				test.there(address)
				builder.WithObjects(address)
			}
			c := builder.Build()
			r := &Reconciler{providers: ipam.Providers{contract.Provider{}}, client: c, live: c, now: time.Now, events: events.NewFakeRecorder(10)}
			b := placedBinding()

			placed, err := r.place(t.Context(), livingState(), &holding{annotated: &b, placed: true})

			if err != nil || placed != test.placed {
				t.Errorf("it is placed: %t (error %v), want %t", placed, err, test.placed)
			}
			made := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0"}}
			if test.placed && (!r.stored(t, made) || !ipam.IsProtected(made) || ipam.MachineOf(made) != "cp-0") {
				t.Errorf("it has the finalizers %v and is for %q, want it protected for cp-0", made.Finalizers, ipam.MachineOf(made))
			}
		})
	}
}
