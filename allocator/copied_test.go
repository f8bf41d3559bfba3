package allocator

import (
	"net/netip"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// A machine that was copied has the annotation of the one that it was copied from.
func TestBindingsOfAnotherMachineThatLivesAreRefused(t *testing.T) {
	markedFor := func(machine string) func(*ipamv1.IPClaim) {
		return func(c *ipamv1.IPClaim) {
			ipam.Mark(c, ipam.Machine{NamespacedName: types.NamespacedName{Name: machine}})
		}
	}
	ownedBy := func(kind, name string) func(*ipamv1.IPClaim) {
		return func(c *ipamv1.IPClaim) {
			c.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, UID: "uid"}}
		}
	}
	for name, test := range map[string]struct {
		claim   func(*ipamv1.IPClaim)
		refused bool
	}{
		"its claim owned by another one":        {ownedBy(capi.VSphereMachineKind.Kind, "cp-9"), true},
		"its claim marked for another one":      {markedFor("cp-9"), true},
		"its claim owned by one that is gone":   {ownedBy(capi.VSphereMachineKind.Kind, "cp-8"), false},
		"its claim marked for one that is gone": {markedFor("cp-8"), false},
		"its claim owned by something else":     {ownedBy("ConfigMap", "cp-9"), false},
		"its claim its own":                     {markedFor("cp-0"), false},
		"its claim nobody's":                    {func(*ipamv1.IPClaim) {}, false},
		"its claim gone":                        {func(c *ipamv1.IPClaim) { markedFor("cp-9")(c); c.Name = "another" }, false},
		"its claim of another namespace":        {func(c *ipamv1.IPClaim) { markedFor("cp-9")(c); c.Namespace = "other" }, false},
		"its claim marked by an earlier owner's copy": {func(c *ipamv1.IPClaim) {
			markedFor("cp-0")(c)
			ownedBy(capi.VSphereMachineKind.Kind, "cp-9")(c)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			claim := claimNamed("cp-9-0", "one")
			test.claim(claim)
			// The machine itself may be there already, as after a restore.
			a := played(t)
			a.live = played(t, claim, storedMachine("cp-9"), storedMachine("cp-0")).client
			bindings := ipam.Bindings{Machine: "cp-0", Bindings: []ipam.Binding{
				{Pool: metal3.PoolNamed("one"), Claim: "cp-0-0"}, {Pool: metal3.PoolNamed("one"), Claim: "cp-9-0"},
			}}

			err := a.CheckNotCopied(t.Context(), cp0(), bindings)

			if refused := isRefusedFor(err, ipam.BindingsShared); refused != test.refused || !refused && err != nil {
				t.Errorf("got error %v, want a refusal %s: %t", err, ipam.BindingsShared, test.refused)
			}
		})
	}
}

// Whoever was restored has bindings of its own, and whether it may share its address with
// the one that was given it meanwhile is decided elsewhere.
func TestCopyOfAMachineWithoutAClaimIsKnownByTheClaimOfItsAddress(t *testing.T) {
	ip := netip.MustParseAddr("10.0.0.10")
	for name, test := range map[string]struct {
		claim   string
		refused bool
	}{
		"a copy of the one that has the address": {"cp-9-0", true},
		"one that had the address before":        {"cp-0-0", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := taking(t, servedPool(), ofMachine("cp-9", ip), storedMachine("cp-9"))
			bindings := ipam.Bindings{Machine: "cp-0", Bindings: []ipam.Binding{
				{Pool: metal3.PoolNamed("one"), Claim: test.claim, Address: netip.PrefixFrom(ip, 24)},
			}}

			err := a.CheckNotCopied(t.Context(), cp0(), bindings)

			if refused := isRefusedFor(err, ipam.BindingsShared); refused != test.refused || !refused && err != nil {
				t.Errorf("got error %v, want a refusal %s: %t", err, ipam.BindingsShared, test.refused)
			}
		})
	}
}
