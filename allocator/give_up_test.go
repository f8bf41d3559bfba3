package allocator

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// waitingMachine is the stored machine "cp-0", which has no address.
func waitingMachine(change ...func(*capi.VSphereMachine)) *capi.VSphereMachine {
	m := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
	m.Spec.Network.Devices = []capi.Device{{NetworkName: "a"}}
	for _, c := range change {
		c(m)
	}
	return m
}

// bind has a machine say that it has these bindings.
func bind(t *testing.T, m *capi.VSphereMachine, bindings ...ipam.Binding) {
	t.Helper()
	text, err := ipam.Bindings{Machine: m.Name, Bindings: bindings}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kube.SetAnnotation(m, ipam.BindingsAnnotation, text)
}

// bindTo writes bindings into the stored machine.
func bindTo(t *testing.T, a *Allocator, bindings ...ipam.Binding) {
	t.Helper()
	m := &capi.VSphereMachine{}
	if err := a.client.Get(t.Context(), ofStoredOne().Machine.NamespacedName, m); err != nil {
		t.Fatal(err)
	}
	bind(t, m, bindings...)
	if err := a.client.Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// bindingOfOne is that of boundClaim, with this claim.
func bindingOfOne(claim string) ipam.Binding {
	return ipam.Binding{Pool: metal3.PoolNamed("one"), Claim: claim, Address: netip.MustParsePrefix("10.0.0.10/24")}
}

func TestClaimIsGivenUpThatNothingUses(t *testing.T) {
	on := func(m *capi.VSphereMachine) { m.Spec.Network.Devices[0].IPAddrs = []string{"10.0.0.10/24"} }
	elsewhere := func(m *capi.VSphereMachine) { m.Spec.Network.Devices[0].NetworkName = "template" }
	vm := func(networks ...string) client.Object {
		vm := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0"}}
		for _, network := range networks {
			vm.Status.Network = append(vm.Status.Network, capi.NetworkStatus{NetworkName: network, IPAddrs: []string{"10.0.0.10"}})
		}
		return vm
	}
	boundTo := func(claims ...string) func(*capi.VSphereMachine) {
		return func(m *capi.VSphereMachine) {
			var bindings []ipam.Binding
			for _, claim := range claims {
				b := bindingOfOne(claim)
				if claim != "cp-0-0" {
					b.Address = netip.MustParsePrefix("10.0.0.77/24")
				}
				bindings = append(bindings, b)
			}
			bind(t, m, bindings...)
		}
	}
	for name, test := range map[string]struct {
		machine *capi.VSphereMachine
		others  []client.Object
		stays   bool
	}{
		"the machine has none":                       {waitingMachine(), nil, false},
		"it has others by now":                       {waitingMachine(boundTo("cp-0-0.1")), nil, false},
		"another leader has bound it":                {waitingMachine(boundTo("cp-0-0")), nil, true},
		"nobody can tell what it has":                {waitingMachine(func(m *capi.VSphereMachine) { kube.SetAnnotation(m, ipam.BindingsAnnotation, "{") }), nil, true},
		"it has the address, and has lost its marks": {waitingMachine(on), nil, true},
		"it has the address, and says less":          {waitingMachine(on, boundTo("cp-0-0.1")), nil, true},
		"it has it where its zone puts the device":   {waitingMachine(on, elsewhere, boundTo("cp-0-0.1")), nil, true},
		"its VM has none":                            {waitingMachine(), []client.Object{vm()}, false},
		"its VM has it all the same":                 {waitingMachine(), []client.Object{vm("a")}, true},
		"a VM on another network has it":             {waitingMachine(), []client.Object{vm("b")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			claim, address := boundClaim()
			address.Annotations[ipam.NetworkAnnotation] = "a"
			a := played(t, append(test.others, test.machine, poolOf("one", "10.0.0.20"), claim, address)...)

			if err := a.GiveUp(t.Context(), ofStoredOne().Machine, "uid"); err != nil {
				t.Fatal(err)
			}

			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); client.IgnoreNotFound(err) != nil || (err == nil) != test.stays {
				t.Errorf("got error %v, want that the claim stays: %v", err, test.stays)
			}
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || ipam.IsProtected(address) != test.stays {
				t.Errorf("the address is %+v, error %v, want it protected: %v", address.ObjectMeta, err, test.stays)
			}
		})
	}
}

// Others may have the same address on a network of theirs.
func TestAddressThatNobodyWasGivenIsGivenUpWithItsClaim(t *testing.T) {
	claim, address := boundClaim()
	address.Finalizers, address.Annotations = nil, nil
	elsewhere := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "vm"}, Status: capi.VSphereVMStatus{Addresses: []string{"10.0.0.10"}}}
	a := played(t, waitingMachine(), elsewhere, claim, address)

	if err := a.GiveUp(t.Context(), ofStoredOne().Machine, "uid"); err != nil {
		t.Fatal(err)
	}

	if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); !apierrors.IsNotFound(err) {
		t.Errorf("got error %v, want that the claim is gone", err)
	}
}

// Somebody has read in the claim what is to come, and written it by hand.
func TestClaimWhoseAddressTheMachineHasStaysAlsoUnprotected(t *testing.T) {
	claim, address := boundClaim()
	address.Finalizers, address.Annotations = nil, nil
	a := played(t, waitingMachine(func(m *capi.VSphereMachine) { m.Spec.Network.Devices[0].IPAddrs = []string{"10.0.0.10/24"} }), claim, address)

	if err := a.GiveUp(t.Context(), ofStoredOne().Machine, "uid"); err != nil {
		t.Fatal(err)
	}

	if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		t.Errorf("got error %v, want that the claim stays", err)
	}
}

// It may have lost the marks of both, and the address of one, whose VM does not tell of it.
func TestMachineThatHasLostItsMarksGivesUpNothing(t *testing.T) {
	claim, address := boundClaim()
	other, otherAddress := otherClaim()
	a := played(t, waitingMachine(func(m *capi.VSphereMachine) { m.Spec.Network.Devices[0].IPAddrs = []string{"10.0.0.10/24"} }), claim, address, other, otherAddress)

	if err := a.GiveUp(t.Context(), ofStoredOne().Machine, "uid"); err != nil {
		t.Fatal(err)
	}

	for _, kept := range []client.Object{claim, other} {
		if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(kept), kept); err != nil {
			t.Errorf("got error %v, want that %T stays", err, kept)
		}
	}
}

// The cache is behind with an address that was bound a moment ago.
func TestAddressThatTheCacheDoesNotHaveYetIsGivenUpWithItsClaim(t *testing.T) {
	claim, address := boundClaim()
	a := played(t, waitingMachine(), poolOf("one", "10.0.0.20"), claim, address)
	behind := interceptor.NewClient(a.client.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, isAddresses := list.(*ipamv1.IPAddressList); isAddresses {
				return nil
			}
			return c.List(ctx, list, opts...)
		},
	})
	a.client = behind

	if err := a.GiveUp(t.Context(), ofStoredOne().Machine, "uid"); err != nil {
		t.Fatal(err)
	}

	if err := a.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || ipam.IsProtected(address) {
		t.Errorf("the address is %+v, error %v, want it unprotected", address.ObjectMeta, err)
	}
}

// givingUp are the ways in which a claim of a stored machine comes to be given up, or what
// is left of one.
func givingUp() map[string]func(context.Context, *Allocator) error {
	return map[string]func(context.Context, *Allocator) error{
		"the machine asks for nothing": func(ctx context.Context, a *Allocator) error {
			return a.GiveUp(ctx, ofStoredOne().Machine, "uid")
		},
		"it asks for another pool": func(ctx context.Context, a *Allocator) error {
			req := wanting("two")
			req.UID = "uid"
			_, err := a.Claim(ctx, req)
			if _, refused := ipam.AsRefusal(err); refused {
				return nil
			}
			return err
		},
	}
}

// racing is an Allocator over a machine that waits, and has a claim, which is bound. In the
// moment in which that is marked, or its address is unprotected, something else happens.
func racing(t *testing.T, onMark, onUnprotect func(*Allocator)) (*Allocator, *ipamv1.IPAddress) {
	t.Helper()
	claim, address := boundClaim()
	a := played(t, waitingMachine(), poolOf("one", "10.0.0.20"), poolOf("two", "10.0.1.20"), claim, address)
	plain := New(a.providers, a.client, a.live)
	a.client = interceptor.NewClient(a.client.(client.WithWatch), interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if _, isAddress := obj.(*ipamv1.IPAddress); isAddress && !ipam.IsProtected(obj) {
				onUnprotect(plain)
			}
			if _, isClaim := obj.(*ipamv1.IPClaim); isClaim && ipam.IsGivenUp(obj) && ipam.IsProtected(obj) {
				onMark(plain)
			}
			return c.Patch(ctx, obj, patch, opts...)
		},
	})
	return a, address
}

// Two leaders overlap: the earlier one writes an address into the machine in the moment in
// which the later one gives it up.
func TestAddressThatAnotherLeaderHasWrittenMeanwhileStaysProtected(t *testing.T) {
	for name, giveUp := range givingUp() {
		t.Run(name, func(t *testing.T) {
			a, address := racing(t, func(plain *Allocator) { bindTo(t, plain, bindingOfOne("cp-0-0")) }, func(*Allocator) {})

			if err := giveUp(t.Context(), a); !errors.Is(err, ErrMachineGone) {
				t.Errorf("got error %v, want ErrMachineGone", err)
			}

			if err := a.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !ipam.IsProtected(address) {
				t.Errorf("the address is %+v, error %v, want it protected", address.ObjectMeta, err)
			}
		})
	}
}

// The earlier one is later still: what it has read of the machine does not do any more.
func TestAddressIsNotFreedWhileAnotherLeaderCanStillWriteIt(t *testing.T) {
	for name, giveUp := range givingUp() {
		t.Run(name, func(t *testing.T) {
			read, freed := waitingMachine(), false
			a, _ := racing(t, func(*Allocator) {}, func(plain *Allocator) {
				freed = true
				bind(t, read, bindingOfOne("cp-0-0"))
				if err := plain.client.Update(t.Context(), read); !apierrors.IsConflict(err) {
					t.Errorf("got error %v for what another leader writes, want a conflict", err)
				}
			})
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(read), read); err != nil {
				t.Fatal(err)
			}

			if err := giveUp(t.Context(), a); err != nil || !freed {
				t.Errorf("got error %v, want that the address is freed", err)
			}
		})
	}
}

// As before; others have deleted the claim.
func TestAddressWhoseClaimIsGoneIsNotFreedWhileAnotherLeaderCanStillWriteIt(t *testing.T) {
	for name, bound := range map[string]bool{"it does not": false, "it has": true} {
		t.Run(name, func(t *testing.T) {
			_, address := boundClaim()
			a := played(t, waitingMachine(), address)
			read := waitingMachine()
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(read), read); err != nil {
				t.Fatal(err)
			}
			if bound {
				bindTo(t, a, bindingOfOne("cp-0-0"))
			}

			err := a.unprotectLeft(t.Context(), ofStoredOne())

			if errors.Is(err, ErrMachineGone) != bound || err != nil && !bound {
				t.Fatalf("got error %v", err)
			}
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || ipam.IsProtected(address) != bound {
				t.Errorf("the address is %+v, error %v, want it protected: %v", address.ObjectMeta, err, bound)
			}
			if err := a.client.Update(t.Context(), read); !apierrors.IsConflict(err) {
				t.Errorf("got error %v for what another leader writes, want a conflict", err)
			}
		})
	}
}

// It reads the machine after that, and then the claim. If the claim could be used, its
// address would be freed behind that.
func TestClaimThatIsGivenUpIsNotUsedByALeaderThatReadsTheMachineAfterwards(t *testing.T) {
	for name, giveUp := range givingUp() {
		t.Run(name, func(t *testing.T) {
			tried := false
			a, _ := racing(t, func(*Allocator) {}, func(plain *Allocator) {
				tried = true
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, err := plain.Claim(ctx, ofStoredOne())
				if refusal, refused := ipam.AsRefusal(err); !refused || refusal.Reason != ipam.ClaimTerminating {
					t.Errorf("got error %v, want that the claim is refused", err)
				}
			})

			_ = giveUp(t.Context(), a)

			if !tried {
				t.Error("its address was not unprotected")
			}
		})
	}
}

// A provider that frees an address meanwhile would put our finalizer back on it.
func TestAddressIsUnprotectedBeforeItsClaimIsDeleted(t *testing.T) {
	claim, address := boundClaim()
	a := played(t, waitingMachine(), claim, address)
	protected := false
	a.client = interceptor.NewClient(a.client.(client.WithWatch), interceptor.Funcs{
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(address), address); err != nil {
				return err
			}
			protected = ipam.IsProtected(address)
			return c.Delete(ctx, obj, opts...)
		},
	})

	if err := a.GiveUp(t.Context(), ofStoredOne().Machine, "uid"); err != nil || protected {
		t.Errorf("got error %v; the address is protected when its claim is deleted: %v", err, protected)
	}
}

// Nobody can write into a machine that is bound, and it is written no more than needed.
func TestMachineThatIsBoundIsNotWrittenWhenAClaimIsGivenUp(t *testing.T) {
	claim, address := boundClaim()
	m := waitingMachine()
	other := bindingOfOne("cp-0-0.1")
	other.Address = netip.MustParsePrefix("10.0.0.77/24")
	bind(t, m, other)
	a := played(t, m, claim, address)

	if err := a.GiveUp(t.Context(), ofStoredOne().Machine, "uid"); err != nil {
		t.Fatal(err)
	}

	if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil || m.Annotations[ipam.GivenUpAnnotation] != "" {
		t.Errorf("it has the annotations %v, error %v", m.Annotations, err)
	}
}
