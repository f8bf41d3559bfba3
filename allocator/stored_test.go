package allocator

import (
	"errors"
	"maps"
	"net/netip"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// ofStored is an Allocator over these objects, and an allocation for the stored machine
// "cp-0" with the UID "uid".
func ofStored(t *testing.T, objects ...client.Object) (*Allocator, *allocation) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(ipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, nil)); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithIndex(&ipamv1.IPClaim{}, byMark, func(obj client.Object) []string { return []string{obj.GetLabels()[ipam.MachineLabel]} }).
		WithIndex(&ipamv1.IPAddress{}, byClaim, func(obj client.Object) []string { return []string{obj.(*ipamv1.IPAddress).Spec.Claim.Name} }).Build()
	a := New(ipam.Providers{metal3.Provider{}}, c, c)
	al := a.attempt(Request{
		Stamp: ipam.Stamp{Time: time.Now(), Request: "request"}, UID: "uid",
		Machine: ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}},
		Asks:    []ipam.Ask{askOf(metal3.PoolNamed("pool"))},
	}).allocations[0]
	al.want.Pool, al.provider = metal3.PoolNamed("pool"), metal3.Provider{}
	al.pool = ipam.Pool{Object: &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}, Reference: metal3.PoolNamed("pool")}
	return a, al
}

// claimOf is the first claim of the machine on a pool, marked, and owned by the machine
// with this UID, by nobody if that is empty.
func claimOf(owner types.UID, pool string, change ...func(*ipamv1.IPClaim)) *ipamv1.IPClaim {
	claim := &ipamv1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "claim"},
		Spec:       ipamv1.IPClaimSpec{Pool: corev1.ObjectReference{APIVersion: ipamv1.GroupVersion.String(), Kind: "IPPool", Namespace: "ns", Name: pool}},
	}
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})
	if owner != "" {
		claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "infrastructure.cluster.x-k8s.io/v1beta2", Kind: "VSphereMachine", Name: "cp-0", UID: owner}}
	}
	for _, c := range change {
		c(claim)
	}
	return claim
}

func failed(claim *ipamv1.IPClaim) {
	message := "Exhausted IP Pools"
	claim.Status.ErrorMessage = &message
}

func unmarked(claim *ipamv1.IPClaim) { claim.Labels, claim.Annotations = nil, nil }

func TestStoredMachineUsesWhatIsItsOwnWhoeverMadeIt(t *testing.T) {
	for name, test := range map[string]struct {
		claim *ipamv1.IPClaim
		// want is the reason for which it is refused, empty if it is used.
		want ipam.Reason
	}{
		"its own":              {claimOf("uid", "pool"), ""},
		"the adapter's for it": {claimOf("uid", "pool", unmarked), ""},
		"of a request that came in": {claimOf("", "pool", func(claim *ipamv1.IPClaim) {
			claim.Annotations[ipam.RequestedByAnnotation] = "none"
		}), ""},
		"of an earlier machine":       {claimOf("earlier", "pool"), ipam.ClaimTerminating},
		"of somebody else":            {claimOf("", "pool", unmarked), ipam.ClaimNotOurs},
		"the adapter's, another pool": {claimOf("uid", "other", unmarked), ipam.ClaimNotOurs},
		"offered, another pool": {claimOf("uid", "other", func(claim *ipamv1.IPClaim) {
			claim.Annotations[ipam.ForAnnotation] = "cp-0"
		}), ipam.ClaimNotOurs},
	} {
		t.Run(name, func(t *testing.T) {
			machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
			a, al := ofStored(t, test.claim, machine)

			before := &ipamv1.IPClaim{}
			if err := a.client.Get(t.Context(), al.claimKey(), before); err != nil {
				t.Fatal(err)
			}

			_, err := a.ensureClaim(t.Context(), al)

			refusal, refused := ipam.AsRefusal(err)
			if refused && refusal.Reason != test.want || !refused && (err != nil || test.want != "") {
				t.Fatalf("got error %v, want %q", err, test.want)
			}
			if refused {
				return
			}
			claim := &ipamv1.IPClaim{}
			if err := a.client.Get(t.Context(), al.claimKey(), claim); err != nil {
				t.Fatal(err)
			}
			_, requested := claim.Annotations[ipam.RequestedByAnnotation]
			if !ipam.IsMarked(claim, "cp-0") || capi.OwnerMachine(claim).UID != "uid" || requested {
				t.Errorf("the claim is %+v, want one that is the machine's own", claim.ObjectMeta)
			}
			// While a machine waits it is tried again and again.
			if name == "its own" && claim.ResourceVersion != before.ResourceVersion {
				t.Error("a claim is written that is as it should be")
			}
		})
	}
}

func TestClaimOfAStoredMachineIsItsOwnFromTheStart(t *testing.T) {
	a, al := ofStored(t)

	if _, err := a.ensureClaim(t.Context(), al); err != nil {
		t.Fatal(err)
	}

	claim := &ipamv1.IPClaim{}
	if err := a.client.Get(t.Context(), al.claimKey(), claim); err != nil {
		t.Fatal(err)
	}
	owner := capi.OwnerMachine(claim)
	_, requested := claim.Annotations[ipam.RequestedByAnnotation]
	if owner.UID != "uid" || owner.Controller == nil || !*owner.Controller || owner.BlockOwnerDeletion != nil || requested {
		t.Errorf("it has the owner %+v and the annotations %v", owner, claim.Annotations)
	}
	if !controllerutil.ContainsFinalizer(claim, ipam.InUseFinalizer) {
		t.Errorf("it has the finalizers %v, want ours", claim.Finalizers)
	}
}

func TestNothingIsClaimedForAMachineThatIsGone(t *testing.T) {
	now := metav1.Now()
	for name, machine := range map[string]*capi.VSphereMachine{
		"gone":        {ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "other"}},
		"another one": {ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "later"}},
		"bound by another leader": {ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid", Annotations: map[string]string{
			ipam.BindingsAnnotation: `{"machine":"cp-0","bindings":[]}`,
		}}},
		"being deleted": {ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid", DeletionTimestamp: &now, Finalizers: []string{"x/y"}}},
	} {
		t.Run(name, func(t *testing.T) {
			a, al := ofStored(t, machine)

			_, err := a.Claim(t.Context(), *al.Request)

			if !errors.Is(err, ErrMachineGone) {
				t.Errorf("got error %v, want ErrMachineGone", err)
			}
		})
	}
}

// The first claim of the machine, bound to 10.0.0.10 of pool "one", and its address.
func boundClaim(change ...func(*ipamv1.IPClaim)) (*ipamv1.IPClaim, *ipamv1.IPAddress) {
	bound := func(claim *ipamv1.IPClaim) {
		claim.Finalizers = []string{ipam.InUseFinalizer}
		claim.Status.Address = &corev1.ObjectReference{Name: "address"}
	}
	claim := claimOf("uid", "one", append(change, bound)...)
	return claim, &ipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "address", UID: "address", Finalizers: []string{ipam.InUseFinalizer},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: ipamv1.GroupVersion.String(), Kind: "IPClaim", Name: claim.Name, UID: claim.UID}},
			Annotations:     map[string]string{ipam.MachineNameAnnotation: "cp-0", ipam.MachineUIDAnnotation: "uid"},
		},
		Spec: ipamv1.IPAddressSpec{Claim: corev1.ObjectReference{Name: claim.Name}, Pool: corev1.ObjectReference{Name: "one"}, Address: "10.0.0.10", Prefix: 24},
	}
}

// An unused claim of the machine of the other API, and its address.
func otherClaim(change ...func(*capiipamv1.IPAddressClaim)) (*capiipamv1.IPAddressClaim, *capiipamv1.IPAddress) {
	claim := &capiipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "other", OwnerReferences: claimOf("uid", "one").OwnerReferences}}
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})
	for _, c := range change {
		c(claim)
	}
	return claim, &capiipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "cp-0-0", Finalizers: []string{ipam.InUseFinalizer},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: capiipamv1.GroupVersion.String(), Kind: "IPAddressClaim", Name: "cp-0-0", UID: "other"}},
			Annotations:     map[string]string{ipam.MachineNameAnnotation: "cp-0", ipam.MachineUIDAnnotation: "uid"},
		},
		Spec: capiipamv1.IPAddressSpec{ClaimRef: capiipamv1.IPAddressClaimReference{Name: "cp-0-0"}, Address: "10.0.1.10"},
	}
}

// ofStoredOne is a request of the stored machine "cp-0" for an address of pool "one".
func ofStoredOne() Request {
	req := wanting("one")
	req.UID, req.Stamp = "uid", ipam.Stamp{Time: time.Now(), Request: "request"}
	return req
}

// The template of a machine that waits may change: what it claimed before is nobody's then.
func TestClaimsThatAStoredMachineDoesNotUseAreDeleted(t *testing.T) {
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
	for name, test := range map[string]struct {
		change func(*capiipamv1.IPAddressClaim)
		stays  bool
	}{
		"of the other API":        {func(*capiipamv1.IPAddressClaim) {}, false},
		"of an address too many":  {func(claim *capiipamv1.IPAddressClaim) { claim.Name = "cp-0-0.1" }, false},
		"of an earlier machine":   {func(claim *capiipamv1.IPAddressClaim) { claim.OwnerReferences[0].UID = "earlier" }, true},
		"offered by somebody":     {func(claim *capiipamv1.IPAddressClaim) { claim.Annotations[ipam.ForAnnotation] = "cp-0" }, true},
		"of the adapter's making": {func(claim *capiipamv1.IPAddressClaim) { claim.Annotations = nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			claim, address := boundClaim()
			other, otherAddress := otherClaim(test.change)
			otherAddress.Spec.ClaimRef.Name = other.Name
			a := played(t, machine.DeepCopy(), poolOf("one", "10.0.0.20"), claim, address, other, otherAddress)

			attempt, err := a.Claim(t.Context(), ofStoredOne())

			if err != nil || len(attempt.Bindings) != 1 || attempt.Bindings[0].Claim != "cp-0-0" {
				t.Fatalf("got %+v, error %v, want the binding of its claim", attempt.Bindings, err)
			}
			bindTo(t, a, attempt.Bindings...)
			if err := a.GiveUp(t.Context(), ofStoredOne().Machine, "uid"); err != nil {
				t.Fatal(err)
			}
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(other), other); client.IgnoreNotFound(err) != nil || (err == nil) != test.stays {
				t.Errorf("got error %v, want that the other claim stays: %v", err, test.stays)
			}
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(otherAddress), otherAddress); err != nil || ipam.IsProtected(otherAddress) != test.stays {
				t.Errorf("the other address is %+v, error %v, want it protected: %v", otherAddress.ObjectMeta, err, test.stays)
			}
			for _, kept := range []client.Object{claim, address} {
				if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(kept), kept); err != nil || !ipam.IsProtected(kept) {
					t.Errorf("%T is %v, %v, want it as it was", kept, kept.GetFinalizers(), err)
				}
			}
		})
	}
}

// A refused machine that waits keeps what it has claimed already, whatever it is.
func TestRefusedStoredMachineKeepsItsClaims(t *testing.T) {
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
	claim, address := boundClaim()
	a := played(t, machine, poolOf("one", "10.0.0.20"), claim, address)
	req := wanting("one", "none")
	req.UID = "uid"

	_, err := a.Claim(t.Context(), req)

	if refusal, ok := ipam.AsRefusal(err); !ok || refusal.Reason != ipam.PoolNotFound {
		t.Fatalf("got error %v, want a refusal", err)
	}
	for _, kept := range []client.Object{claim, address} {
		if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(kept), kept); err != nil || !ipam.IsProtected(kept) {
			t.Errorf("%T is %v, %v, want it as it was", kept, kept.GetFinalizers(), err)
		}
	}
}

// Its finalizer would keep the address, and with it the name of the claim, for ever: the
// lifecycle controller leaves to a living machine what is its own.
func TestAddressThatAStoredMachineLostItsClaimOfIsUnprotected(t *testing.T) {
	now := metav1.Now()
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
	for name, test := range map[string]struct {
		change func(*ipamv1.IPAddress)
		// named is what is left on the address that says whose it was.
		named string
		stays bool
	}{
		"nobody frees it": {func(*ipamv1.IPAddress) {}, "cp-0", false},
		"its provider waits for us": {func(address *ipamv1.IPAddress) {
			address.DeletionTimestamp, address.Finalizers = &now, append(address.Finalizers, "x/y")
		}, "", false},
		"it is an earlier machine's": {func(address *ipamv1.IPAddress) { address.Annotations[ipam.MachineUIDAnnotation] = "earlier" }, "cp-0", true},
		"its claim is there all along": {func(address *ipamv1.IPAddress) {
			address.OwnerReferences[0].UID, address.Spec.Claim.Name = "there", "there"
		}, "cp-0", true},
		"its claim is another by now":   {func(address *ipamv1.IPAddress) { address.Spec.Claim.Name = "there" }, "cp-0", false},
		"it cools down, without an UID": {func(address *ipamv1.IPAddress) { ipam.CoolAddress(address, ipam.Holder{Name: "cp-0"}, now.Time) }, "cp-0", true},
	} {
		t.Run(name, func(t *testing.T) {
			_, address := boundClaim()
			test.change(address)
			there := claimNamed("there", "none")
			there.UID = "there"
			a := played(t, machine.DeepCopy(), poolOf("one", "10.0.0.10"), address, there)

			if err := a.unprotectLeft(t.Context(), ofStoredOne()); err != nil {
				t.Fatal(err)
			}

			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil {
				t.Fatal(err)
			}
			if ipam.IsProtected(address) != test.stays || ipam.MachineOf(address) != test.named {
				t.Errorf("the address is %+v, want it protected: %v", address.ObjectMeta, test.stays)
			}
		})
	}
}

// Nothing is to be taken off it, and whoever writes the machine is not to be disturbed.
func TestAddressThatNobodyHasProtectedIsLeftAsItIs(t *testing.T) {
	_, address := boundClaim()
	address.Finalizers = nil
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
	a := played(t, machine, address)

	if err := a.unprotectLeft(t.Context(), ofStoredOne()); err != nil {
		t.Fatal(err)
	}

	for _, obj := range []client.Object{address, machine} {
		now := obj.DeepCopyObject().(client.Object)
		if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(obj), now); err != nil {
			t.Fatal(err)
		}
		if before := obj.GetAnnotations(); !maps.Equal(now.GetAnnotations(), before) {
			t.Errorf("%T has annotations %v, want %v as before", obj, now.GetAnnotations(), before)
		}
	}
}

// What cannot serve a stored machine any more is given back, to be made again.
func TestUselessClaimOfAStoredMachineIsDeleted(t *testing.T) {
	address := func() *ipamv1.IPAddress {
		return &ipamv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: "address", Finalizers: []string{ipam.InUseFinalizer},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: ipamv1.GroupVersion.String(), Kind: "IPClaim", Name: "cp-0-0", UID: "claim"}},
				Annotations:     map[string]string{ipam.MachineNameAnnotation: "cp-0", ipam.MachineUIDAnnotation: "uid"},
			},
			Spec: ipamv1.IPAddressSpec{Claim: corev1.ObjectReference{Name: "cp-0-0"}},
		}
	}
	finalized := func(claim *ipamv1.IPClaim) { claim.Finalizers = []string{ipam.InUseFinalizer} }
	given := netip.MustParseAddr("10.0.0.5")
	asksForIt := func(claim *ipamv1.IPClaim) { claim.Annotations[metal3.RequestAnnotation] = given.String() }
	for name, test := range map[string]struct {
		claim *ipamv1.IPClaim
		ip    netip.Addr
		want  ipam.Reason
	}{
		"it failed":                {claimOf("uid", "pool", failed, finalized), netip.Addr{}, ipam.PoolExhausted},
		"it is on another one":     {claimOf("uid", "other", finalized), netip.Addr{}, ipam.ClaimTerminating},
		"it asked for an address":  {claimOf("uid", "pool", failed, finalized, asksForIt), given, ipam.AddressTaken},
		"it asked for another one": {claimOf("uid", "pool", finalized, asksForIt), given.Next(), ipam.ClaimTerminating},
	} {
		t.Run(name, func(t *testing.T) {
			machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
			a, al := ofStored(t, test.claim, machine, address())
			al.want.IP = test.ip

			_, err := a.ensureClaim(t.Context(), al)

			if refusal, ok := ipam.AsRefusal(err); !ok || refusal.Reason != test.want {
				t.Errorf("got error %v, want %s", err, test.want)
			}
			if err := a.client.Get(t.Context(), al.claimKey(), &ipamv1.IPClaim{}); client.IgnoreNotFound(err) != nil || err == nil {
				t.Errorf("got error %v, want that the claim is gone", err)
			}
			left := address()
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(left), left); err != nil || ipam.IsProtected(left) {
				t.Errorf("the address is %+v, error %v, want it unprotected", left.ObjectMeta, err)
			}
		})
	}
}

func TestAddressIsProtectedForTheVeryMachine(t *testing.T) {
	for name, test := range map[string]struct {
		// machine and uid are what stands on the address, the latter is that of the
		// request in stored.
		machine, uid, stored string
		refused              bool
	}{
		"free, at admission":                {},
		"free, stored":                      {stored: "uid"},
		"its own, at admission":             {machine: "cp-0"},
		"an earlier one's, at admission":    {machine: "cp-0", uid: "uid", refused: true},
		"its own by name, stored":           {machine: "cp-0", stored: "uid"},
		"its own, stored":                   {machine: "cp-0", uid: "uid", stored: "uid"},
		"an earlier one's, stored":          {machine: "cp-0", uid: "earlier", stored: "uid", refused: true},
		"another one's, stored":             {machine: "cp-1", stored: "uid", refused: true},
		"another one's, with UID, stored":   {machine: "cp-1", uid: "uid", stored: "uid", refused: true},
		"another one's, at admission":       {machine: "cp-1", refused: true},
		"another one's, UID, at admission ": {machine: "cp-1", uid: "other", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			obj := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "address"}}
			if test.machine != "" {
				ipam.Protect(obj, test.machine)
			}
			if test.uid != "" {
				obj.Annotations[ipam.MachineUIDAnnotation] = test.uid
			}
			a, al := ofStored(t, obj)
			al.UID = types.UID(test.stored)
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
				t.Fatal(err)
			}

			err := a.protect(t.Context(), al, metal3.Provider{}.ReadAddress(obj))

			if _, refused := ipam.AsRefusal(err); refused != test.refused || !refused && err != nil {
				t.Fatalf("got error %v, want it refused: %v", err, test.refused)
			}
			if test.refused {
				return
			}
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
				t.Fatal(err)
			}
			if got := obj.Annotations[ipam.MachineUIDAnnotation]; !ipam.IsProtected(obj) || ipam.MachineOf(obj) != "cp-0" || got != test.stored {
				t.Errorf("the address is %+v, want it protected for cp-0 with UID %q", obj.ObjectMeta, test.stored)
			}
		})
	}
}

// An address that is not fit is set aside for a stored machine, too, and its claim is
// not the machine's any more.
func TestClaimOfAStoredMachineIsSetAside(t *testing.T) {
	claim := claimOf("uid", "pool", func(claim *ipamv1.IPClaim) { claim.Finalizers = []string{ipam.InUseFinalizer} })
	a, al := ofStored(t, claim)
	unfit := &ipam.Unfit{Cause: ipam.IsGateway, Refusal: ipam.Refuse(ipam.InvalidAddress, "it is the gateway")}

	if err := a.setAside(t.Context(), al, metal3.Provider{}.ReadClaim(claim), unfitAddress{Unfit: unfit}); err != nil {
		t.Fatal(err)
	}

	if err := a.client.Get(t.Context(), al.claimKey(), claim); err != nil {
		t.Fatal(err)
	}
	if !ipam.IsSetAside(claim) || len(claim.OwnerReferences)+len(claim.Finalizers) > 0 {
		t.Errorf("the claim is %+v, want it set aside, and nobody's", claim.ObjectMeta)
	}
}
