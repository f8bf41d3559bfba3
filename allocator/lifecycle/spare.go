package lifecycle

import (
	"slices"
	"time"

	"capv-static-ip.dev/allocator/ipam"

	"capv-static-ip.dev/allocator/capi"
)

// isSpare tells whether the address was protected for the machine while it was
// admitted, but another one was given to it.
func (h holding) isSpare(m machineState) bool {
	return h.claim == nil && h.annotated == nil && h.address != nil && isProtected(h.address) &&
		ipam.MachineOf(h.address) == m.name && h.address.GetAnnotations()[ipam.MachineUIDAnnotation] == ""
}

// decideSpare unprotects a spare address, which makes it a stray one.
func decideSpare(h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	switch wait := grace - now.Sub(h.lastMade(now)); {
	case wait > 0:
		return idle, wait
	case h.isStillUsed():
		return idle, vmCheck
	}
	return unprotect, 0
}

// isSpareClaim tells whether the claim was made for the machine while it was
// admitted, but is not what it was stored with: the same create came in twice, as
// a rule, and the other one asked for less, or for other pools. A claim that had a
// machine once may be what this one has lost, and is not ours to judge.
func (h holding) isSpareClaim(m machineState) bool {
	if !m.exists || m.deleting || h.claim == nil || h.annotated != nil || wasAdopted(h.claim) {
		return false
	}
	adopted := h.address != nil && h.address.GetAnnotations()[ipam.MachineUIDAnnotation] != ""
	return ipam.IsMarked(h.claim, m.name) && len(h.claim.GetOwnerReferences()) == 0 && !adopted
}

// decideSpareClaim is decideOrphan for a claim whose machine lives without it. It
// waits for the machine's age, too: what was stored a moment ago may be changed yet.
func decideSpareClaim(m machineState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	if h.isMoving() {
		return idle, 0
	}
	if !h.claim.GetDeletionTimestamp().IsZero() {
		if h.address != nil && isProtected(h.address) && !h.isStillUsed() {
			return unprotect, 0
		}
		return idle, terminatingCheck
	}
	unseen := h.claim.Address != "" && h.address == nil
	switch wait := grace - min(now.Sub(h.lastUsed(now)), now.Sub(m.created)); {
	case unseen:
		// What cannot be seen may be on a device.
		return idle, 0
	case wait > 0:
		return idle, wait
	case h.isStillUsed():
		return idle, vmCheck
	}
	return reap, 0
}

// isStillUsed tells whether a spare address is used all the same.
func (h holding) isStillUsed() bool {
	return h.vmExists || h.onDevice || h.sharedWith != ""
}

// holds tells whether a machine holds the claim by its bindings, or its address.
func (r *Reconciler) holds(machine *capi.VSphereMachine, h *holding) bool {
	provider := r.providers.For(h.claim.Pool)
	bound := slices.ContainsFunc(bindingsOf(machine), func(b ipam.Binding) bool {
		return b.Claim == h.claim.GetName() && r.providers.For(b.Pool) == provider
	})
	return bound || h.address != nil && hasAddress(machine, capi.ParseAddress(h.address.IP))
}
