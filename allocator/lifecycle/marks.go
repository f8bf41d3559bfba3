package lifecycle

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// marking is what is to be written on a living machine, in this order.
type marking struct {
	// rename has the bindings whose claims are to have other names in the annotation.
	rename []renamedBinding
	// lost is a binding that has lost its claim, and found the holding in which that came
	// back under another name. There may be more, which come next.
	lost, found *holding
	// rewrite says that the annotation misses a binding, or the machine our finalizer.
	rewrite bool
}

// decideMarks decides which of our marks a machine misses. It is asked before anything
// is decided about its bindings, since those are known by the marks.
func decideMarks(s *state) marking {
	if !s.exists || s.deleting || s.moving {
		return marking{}
	}
	var todo marking
	if !slices.ContainsFunc(s.holdings, func(h *holding) bool { return h.paused }) {
		todo.rename = s.renamed
	}
	for _, h := range s.holdings {
		if found := s.foundFor(h); found != nil {
			todo.lost, todo.found = h, found
			break
		}
	}
	todo.rewrite = slices.ContainsFunc(s.holdings, func(h *holding) bool { return h != todo.found && s.missesMarks(h) })
	return todo
}

// missesMarks tells whether a binding is missing in the annotation, as far as claim and
// address say, or is there while our finalizer is not on the machine.
func (s *state) missesMarks(h *holding) bool {
	switch {
	case h.paused || h.isOfEarlierMachine(s.machineState):
		return false
	case h.annotated != nil:
		return !controllerutil.ContainsFinalizer(s.object, ipam.ReleaseFinalizer)
	case h.isTaken():
		return h.isTakenOnDevice(s.machineState) && !s.isBoundOtherwise(h)
	}
	return h.claim != nil && h.address != nil && (h.belongsTo(s.machineState) || isOffered(h.claim, s.name)) && !s.isBoundOtherwise(h)
}

// foundFor is the holding of a claim that is marked for the machine, is bound to
// the address that another binding of it has lost, and belongs to none: the provider
// gave that to a claim for another machine, and whoever found it in use has marked the
// claim for the machine that uses it.
func (s *state) foundFor(lost *holding) *holding {
	if lost.annotated == nil || lost.address != nil || lost.paused || lost.claim != nil && lost.claim.Failure == "" {
		return nil
	}
	for _, h := range s.holdings {
		if h.annotated != nil || h.address == nil || h.claim == nil || h.paused || h.claim.Address != h.address.GetName() {
			continue
		}
		candidate := holding{annotated: lost.annotated, address: h.address}
		if isOrphan(h.claim, s.name) && h.claim.Pool == lost.annotated.Pool && candidate.isAnnotatedAddress() {
			return h
		}
	}
	return nil
}

// restoredBindings are those that the annotation has, and those that claims and devices
// agree upon. The latter are bindings from now on, and are decided upon as such.
func restoredBindings(stored *capi.VSphereMachine, s *state) []ipam.Binding {
	var bindings []ipam.Binding
	for _, h := range s.holdings {
		if h.annotated == nil && !s.isBoundOtherwise(h) {
			h.annotated = restored(stored, s.machineState, h)
		}
		if h.annotated != nil {
			bindings = append(bindings, *h.annotated)
		}
	}
	return bindings
}

// restored is the binding that a claim and a device agree upon, nil if none.
func restored(stored *capi.VSphereMachine, m machineState, h *holding) *ipam.Binding {
	if h.paused {
		return nil
	}
	if h.isTakenOnDevice(m) {
		return injected(stored, namedAsClaimOf(h.address), h)
	}
	if h.claim == nil || h.address == nil || h.sharedWith != "" || !h.claim.GetDeletionTimestamp().IsZero() {
		return nil
	}
	if !h.belongsTo(m) && !isOffered(h.claim, m.name) {
		return nil
	}
	return injected(stored, *h.claim, h)
}

// injected is the binding of a claim that is read back from the device, nil if none has the
// address.
func injected(stored *capi.VSphereMachine, claim ipam.Claim, h *holding) *ipam.Binding {
	binding, ok := machine.Injected(stored.Spec.Network.Devices, claim, capi.ParseAddress(h.address.IP))
	if !ok {
		return nil
	}
	return &binding
}

// namedAsClaimOf is what is known of the claim of an address that is not made yet.
func namedAsClaimOf(address *ipam.Address) ipam.Claim {
	return ipam.Claim{Object: &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: address.Claim}}, Pool: address.Pool}
}
