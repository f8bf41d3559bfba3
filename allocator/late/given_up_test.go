package late

import (
	"errors"
	"net/netip"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// What of it is used, the allocator knows.
func TestMachineThatNeedsNoAddressGivesUpWhatWasClaimedForIt(t *testing.T) {
	yes, now := true, metav1.Now()
	dhcp := func(m *capi.VSphereMachine) { m.Spec.Network.Devices[0].DHCP4 = &yes }
	withVM := func(m *capi.VSphereMachine) { m.Spec.ProviderID = "vsphere://x" }
	annotated := func(key string) func(*capi.VSphereMachine) {
		return func(m *capi.VSphereMachine) { withVM(m); m.Annotations[key] = "" }
	}
	for name, test := range map[string]struct {
		change  func(*capi.VSphereMachine)
		objects []client.Object
		asks    bool
		want    int
	}{
		"it asks for nothing":              {func(*capi.VSphereMachine) {}, nil, false, 1},
		"it has DHCP":                      {dhcp, nil, true, 1},
		"its VM is being made":             {func(*capi.VSphereMachine) {}, []client.Object{vmOf("cp-0")}, true, 1},
		"its VM is there":                  {withVM, nil, true, 1},
		"it has addresses":                 {annotated(ipam.BindingsAnnotation), nil, true, 1},
		"it has just been given some":      {func(*capi.VSphereMachine) {}, nil, true, 1},
		"it is paused":                     {annotated(clusterv1.PausedAnnotation), nil, true, 0},
		"clusterctl takes it away":         {annotated(clusterctlv1.DeleteForMoveAnnotation), nil, true, 0},
		"it is being deleted":              {func(m *capi.VSphereMachine) { withVM(m); m.DeletionTimestamp = &now }, nil, true, 0},
		"CAPV's finalizer is not back yet": {func(m *capi.VSphereMachine) { m.Finalizers = []string{"x/y"} }, nil, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t, append(test.objects, machineDue(test.change))...)
			p.asked.nothing = !test.asks
			p.memory.refuse(key("ns", "cp-0"), nil, start)

			p.reconcile(t)

			if p.engine.givenUp != test.want || p.memory.isWaiting(key("ns", "cp-0")) {
				t.Errorf("it has given up %d times, want %d, and that it waits no more", p.engine.givenUp, test.want)
			}
		})
	}
}

// It would be said to need nothing, and never be looked at again.
func TestMachineThatCouldNotGiveUpIsTriedAgain(t *testing.T) {
	p := newPlay(t, machineDue())
	p.asked.nothing = true
	p.engine.err = errors.New("it does not answer")
	for range 2 {
		if _, err := p.Reconcile(t.Context(), reconcile.Request{NamespacedName: key("ns", "cp-0")}); err == nil {
			t.Error("got no error")
		}
	}
	if p.engine.givenUp != 2 {
		t.Errorf("it has given up %d times, want two", p.engine.givenUp)
	}
}

// What it has claimed in vain is given up when the freeze is over.
func TestMachineWhoseClaimsAreFrozenIsTriedAgain(t *testing.T) {
	p := newPlay(t, machineDue())
	p.asked.nothing = true
	p.engine.err = (&ipam.Freeze{What: "all"}).Refuse()
	for range 2 {
		if result := p.reconcile(t); result.RequeueAfter != allocator.FrozenCheck {
			t.Errorf("it is looked at again after %s, want %s", result.RequeueAfter, allocator.FrozenCheck)
		}
	}
	if p.engine.givenUp != 2 {
		t.Errorf("it has tried to give up %d times, want two", p.engine.givenUp)
	}
}

// The leader that made the claim has died, or has asked the cache before that had it.
func TestMachineIsLookedAtForAClaimThatItDoesNotHave(t *testing.T) {
	now := metav1.Now()
	bound := func(claim string) func(*capi.VSphereMachine) {
		text, err := ipam.Bindings{Machine: "cp-0", Bindings: []ipam.Binding{{
			Pool: metal3.PoolNamed("pool"), Claim: claim, Address: netip.MustParsePrefix("10.0.0.1/24"),
		}}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return func(m *capi.VSphereMachine) { m.Annotations[ipam.BindingsAnnotation] = text }
	}
	owned := func(claim *ipamv1.IPClaim) {
		claim.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "cp-0", UID: "uid"}}
	}
	for name, test := range map[string]struct {
		machine func(*capi.VSphereMachine)
		claim   func(*ipamv1.IPClaim)
		want    bool
	}{
		"it has none":                     {func(*capi.VSphereMachine) {}, owned, true},
		"it has another":                  {bound("cp-0-1"), owned, true},
		"it has it":                       {bound("cp-0-0"), owned, false},
		"the claim is of a request":       {func(*capi.VSphereMachine) {}, func(*ipamv1.IPClaim) {}, false},
		"the claim goes":                  {func(*capi.VSphereMachine) {}, func(claim *ipamv1.IPClaim) { owned(claim); claim.DeletionTimestamp = &now }, false},
		"it is another machine's by name": {func(m *capi.VSphereMachine) { m.UID = "later" }, owned, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := machineDue(test.machine)
			p := newPlay(t, m)
			p.memory.ask(m.UID)
			p.memory.answer(m)
			claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0"}}
			test.claim(claim)

			found := p.machineOfClaim(t.Context(), claim)

			if (len(found) == 1 && found[0] == key("ns", "cp-0")) != test.want || p.memory.isAnswered(m) == test.want {
				t.Errorf("got %v, and that it is known to need nothing: %v; want that it is looked at: %v", found, p.memory.isAnswered(m), test.want)
			}
		})
	}
}
