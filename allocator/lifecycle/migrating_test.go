package lifecycle

import (
	"net/netip"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// isMovedTo has a machine say that its address is on the way from one pool to another.
func isMovedTo(t *testing.T, machine, from, to string) *state {
	t.Helper()
	move := ipam.Move{Address: netip.MustParseAddr("10.0.0.1")}
	move.From = ipam.ClaimReference{Pool: metal3.PoolNamed(from), Claim: "cp-0-0"}
	move.To = ipam.ClaimReference{Pool: metal3.PoolNamed(to), Claim: "cp-0-0.r2"}
	text, err := ipam.Migration{Machine: machine, Moves: []ipam.Move{move}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s := livingState()
	kube.SetAnnotation(s.object, ipam.MigratingAnnotation, text)
	return s
}

func TestBothClaimsOfAMoveAreLeftAlone(t *testing.T) {
	target := func(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		c.Name, c.Spec.Pool.Name = "cp-0-0.r2", "new"
		a.Spec.Claim.Name, a.Spec.Pool.Name = c.Name, "new"
	}
	for name, test := range map[string]struct {
		machine string
		holding holding
		want    bool
	}{
		"the one that it comes from":    {"cp-0", bound(withoutAnnotation), true},
		"the one that it goes to":       {"cp-0", bound(target, withoutAnnotation), true},
		"an address before its claim":   {"cp-0", bound(target, withoutClaim, withoutAnnotation), true},
		"one that was taken":            {"cp-0", taken(0), true},
		"a binding whose claim is gone": {"cp-0", bound(withoutClaim, withoutAddress), true},
		"a claim of another pool": {"cp-0", bound(withoutAnnotation, func(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
			c.Spec.Pool.Name, a.Spec.Pool.Name = "x", "x"
		}), false},
		"said by a manifest that was copied": {"cp-9", bound(withoutAnnotation), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := isMovedTo(t, test.machine, "", "new").isMigrating(&test.holding); got != test.want {
				t.Errorf("it is left alone: %v, want %v", got, test.want)
			}
		})
	}
}

// The cache may show the claim go from which an address was moved before it shows the machine
// say so.
func TestNothingIsRecreatedByWhatAMachineHasSaidBeforeItWasMoved(t *testing.T) {
	before := annotatedWith("cp-0-0", "10.0.0.1/24")
	for name, test := range map[string]struct {
		now  func(*capi.VSphereMachine)
		made bool
	}{
		"it says the same":            {before, true},
		"it is held by another claim": {annotatedWith("cp-0-0.r2", "10.0.0.1/24"), false},
		"it is being moved": {func(m *capi.VSphereMachine) {
			before(m)
			kube.SetAnnotation(m, ipam.MigratingAnnotation, "{}")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := reconciler(t, cp0(onItsDevice, test.now))
			r.events = events.NewFakeRecorder(10)
			claim, _ := copyOf("cp-0", "b")
			h := holdingOf(claim, &ipamv1.IPAddress{})
			h.claim, h.address = nil, nil
			s := livingState(h)
			s.object = cp0(onItsDevice, before)

			err := r.recreate(t.Context(), s, h)

			if made := r.stored(t, claim); made != test.made || apierrors.IsConflict(err) == test.made {
				t.Errorf("the claim is made: %t (error %v), want %t", made, err, test.made)
			}
		})
	}
}
