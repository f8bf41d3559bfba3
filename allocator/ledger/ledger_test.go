package ledger_test

import (
	"slices"
	"testing"

	metal3v1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/ledger"
)

var (
	aPool      = metal3.PoolNamed("pool")
	inCluster  = contract.InClusterPool("pool")
	aProvider  = providers.For(aPool)
	anOwner    = ipam.Owner{Kind: "MachineSet", Name: "md", UID: "md-uid", User: "capi"}
	aNamespace = "ns"
)

// shared is the pool of all namespaces of this name.
func shared(name string) ipam.PoolReference {
	pool, _ := contract.Provider{}.Shared(name)
	return pool
}

func TestNothingIsCountedBeforeAllKindsOfAPoolAreFollowed(t *testing.T) {
	isKind := func(kinds ...client.Object) func(informers.Source) bool {
		return func(s informers.Source) bool {
			return slices.ContainsFunc(kinds, func(kind client.Object) bool { return typeOf(s.Object) == typeOf(kind) })
		}
	}
	for name, test := range map[string]struct {
		begun []client.Object
		pool  ipam.PoolReference
		want  bool
	}{
		"nothing":                       {nil, aPool, false},
		"the addresses of one API":      {[]client.Object{&metal3v1.IPAddress{}}, aPool, false},
		"the addresses of both APIs":    {[]client.Object{&metal3v1.IPAddress{}, &ipamv1.IPAddress{}}, aPool, true},
		"those of the contract":         {[]client.Object{&ipamv1.IPAddress{}}, inCluster, true},
		"those of metal3":               {[]client.Object{&metal3v1.IPAddress{}}, inCluster, false},
		"claims, and no addresses":      {[]client.Object{&metal3v1.IPClaim{}, &ipamv1.IPAddressClaim{}}, aPool, false},
		"machines, and nothing of IPAM": {[]client.Object{&capi.VSphereMachine{}, &capi.VSphereCluster{}}, aPool, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.begin(isKind(test.begun...))
			if _, known := w.ledger.Used(aNamespace, test.pool); known != test.want {
				t.Errorf("it is known: %t, want %t", known, test.want)
			}
			if _, known := ipam.UsedBy(w.ledger.Client(w), aNamespace, test.pool); known != test.want {
				t.Errorf("its client knows it: %t, want %t", known, test.want)
			}
		})
	}
}

func TestNothingIsCountedWhileAnInformerStillTellsWhatThereWas(t *testing.T) {
	w := newWorld(t)
	w.addresses["contract"].unsynced = true
	w.begin(all)
	if _, known := w.ledger.Used(aNamespace, aPool); known {
		t.Error("the addresses of the twin are not all told yet, and it is known")
	}
	w.addresses["contract"].unsynced = false
	w.used(aNamespace, aPool)
}

func TestNoLedgerKnowsNothing(t *testing.T) {
	var none *ledger.Ledger
	_, used := none.Used(aNamespace, aPool)
	_, unstored := none.Unstored(aProvider, aNamespace, aPool)
	_, requested := none.Requested(aProvider, aNamespace, anOwner)
	_, setAside := none.SetAside(aProvider, aNamespace, aPool)
	if used || unstored || requested || setAside {
		t.Error("a ledger that is not there knows something")
	}
}

func TestAddressIsCountedUntilItIsReallyGone(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	address := own("pool", "10.0.0.1")
	w.add(address)

	terminating := address.DeepCopy()
	terminating.DeletionTimestamp = new(metav1.Now())
	w.add(terminating)
	if !w.used(aNamespace, aPool).Has(addr("10.0.0.1")) {
		t.Error("an address that is being deleted does not count")
	}
	w.remove(terminating)
	if view := w.used(aNamespace, aPool); view.Has(addr("10.0.0.1")) || view.Objects() != 0 {
		t.Error("an address that is gone counts")
	}
}

func TestWhatTakesAPlaceIsCountedInItsStead(t *testing.T) {
	for name, change := range map[string]func(*metal3v1.IPAddress){
		"another object of the name": func(a *metal3v1.IPAddress) { a.UID, a.Spec.Address = "new", "10.0.0.2" },
		"another address":            func(a *metal3v1.IPAddress) { a.Spec.Address = "10.0.0.2" },
		"another pool":               func(a *metal3v1.IPAddress) { a.Spec.Pool.Name = "elsewhere" },
		"garbage":                    func(a *metal3v1.IPAddress) { a.Spec.Address = "none" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.begin(all)
			address := own("pool", "10.0.0.1")
			w.add(address)
			now := address.DeepCopy()
			change(now)
			w.add(now)
			if w.used(aNamespace, aPool).Has(addr("10.0.0.1")) {
				t.Error("what was there before counts")
			}
		})
	}
}

func TestGarbageCountsAsAnObjectAndAsNoAddress(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	for i, text := range []string{"", "none", "10.0.0.1/24", "fe80::1%eth0"} {
		address := own("pool", "10.0.1."+string(rune('1'+i)))
		address.Spec.Address = metal3v1.IPAddressStr(text)
		w.add(address)
	}
	if view := w.used(aNamespace, aPool); view.Objects() != 4 || view.Distinct() != 0 {
		t.Errorf("got %d objects and %d addresses, want 4 and none", view.Objects(), view.Distinct())
	}
}

func TestAddressesOfBothAPIsAreThoseOfTheMetal3PoolOfTheirName(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	w.add(own("pool", "10.0.0.1"), other(aPool, "a", "10.0.0.2"), other(inCluster, "b", "10.0.0.3"), other(aPool, "c", "10.0.0.1"))

	view := w.used(aNamespace, aPool)
	if view.Objects() != 4 || view.Distinct() != 3 {
		t.Errorf("got %d objects and %d addresses, want 4 and 3", view.Objects(), view.Distinct())
	}
	if twins, known := view.Twins(); twins != 3 || !known {
		t.Errorf("got %d twins, known: %t; want 3", twins, known)
	}
	if view := w.used(aNamespace, inCluster); view.Objects() != 1 || view.Has(addr("10.0.0.1")) || !view.Has(addr("10.0.0.3")) {
		t.Error("the pool of the other API has addresses of metal3's")
	}
	if view := w.used("elsewhere", aPool); view.Objects() != 0 {
		t.Error("another namespace has them, too")
	}
}

func TestClaimsOfTheOtherAPIThatNameAMetal3PoolAreSeen(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	claim := &ipamv1.IPAddressClaim{ObjectMeta: named("bare")}
	claim.Spec.PoolRef = ipamv1.IPPoolReference{APIGroup: "x", Kind: "Y", Name: "pool"}
	w.add(claim)
	if twins, _ := w.used(aNamespace, aPool).Twins(); twins != 1 {
		t.Errorf("got %d, want the one claim", twins)
	}
	renamed := claim.DeepCopy()
	renamed.Spec.PoolRef.Name = "elsewhere"
	w.add(renamed)
	if twins, _ := w.used(aNamespace, aPool).Twins(); twins != 0 {
		t.Errorf("got %d, want none: it names another pool now", twins)
	}
	w.remove(renamed)
	if twins, _ := w.used(aNamespace, metal3.PoolNamed("elsewhere")).Twins(); twins != 0 {
		t.Errorf("got %d, want none: it is gone", twins)
	}
}

func TestTwinsAreNotKnownBeforeAllClaimsAreTold(t *testing.T) {
	w := newWorld(t)
	w.claims["contract"].unsynced = true
	w.begin(all)
	if _, known := w.used(aNamespace, aPool).Twins(); known {
		t.Error("claims that are not all told count as all")
	}
	w.claims["contract"].unsynced = false
	if _, known := w.used(aNamespace, aPool).Twins(); !known {
		t.Error("all claims are told, and they are not known")
	}
}

func TestPoolOfAllNamespacesHasTheAddressesOfAll(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	elsewhere := other(shared("pool"), "a", "10.0.0.2")
	elsewhere.Namespace = "elsewhere"
	w.add(other(shared("pool"), "a", "10.0.0.1"), elsewhere)
	view := w.used("", shared("pool"))
	if view.Claims() != 2 || !view.HasClaim(types.NamespacedName{Namespace: "elsewhere", Name: "a"}) || view.HasClaim(types.NamespacedName{Namespace: "ns", Name: "b"}) {
		t.Errorf("got %d claims, want one in each of two namespaces", view.Claims())
	}
}

func TestAddressesThatAreNotNamedByTheirPrefixAreSeen(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	odd, cut := own("pool", "10.0.0.2"), own("pool", "fd00::")
	odd.Name = "pool-by-hand"
	cut.Name = "pool-fd00"
	w.add(own("pool", "10.0.0.1"), own("pool", "fd00::1"), cut, other(aPool, "twin", "10.0.0.3"))
	if got := w.used(aNamespace, aPool).NamedOtherwise("pool"); got != 0 {
		t.Errorf("%d are named otherwise, want none", got)
	}
	w.add(odd)
	if got := w.used(aNamespace, aPool).NamedOtherwise("pool"); got != 1 {
		t.Errorf("%d are named otherwise, want one", got)
	}
	if got := w.used(aNamespace, aPool).NamedOtherwise("elsewhere"); got != 4 {
		t.Errorf("%d are named otherwise than with another prefix, want all", got)
	}
}

func TestAddressCoolsDownIfNoObjectOfItIsUsed(t *testing.T) {
	w := newWorld(t)
	w.begin(all)
	cool := func(obj client.Object) client.Object {
		obj.SetAnnotations(map[string]string{ipam.ReleasedAtAnnotation: "2026-01-01T00:00:00Z"})
		return obj
	}
	cooling, twin := own("pool", "10.0.0.1"), other(aPool, "twin", "10.0.0.1")
	w.add(cool(cooling), own("pool", "10.0.0.2"))
	if got := w.used(aNamespace, aPool).Cooling(); got != 1 {
		t.Errorf("%d cool down, want one", got)
	}
	w.add(twin)
	if got := w.used(aNamespace, aPool).Cooling(); got != 0 {
		t.Errorf("%d cool down, want none: it is used, too", got)
	}
	w.remove(twin)
	if got := w.used(aNamespace, aPool).Cooling(); got != 1 {
		t.Errorf("%d cool down, want one again", got)
	}
	w.remove(cooling)
	if got := w.used(aNamespace, aPool).Cooling(); got != 0 {
		t.Errorf("%d cool down, want none: it is gone", got)
	}
}
