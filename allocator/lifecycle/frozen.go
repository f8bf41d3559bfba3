package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
)

// frost is what is known of what is frozen of a machine.
type frost struct {
	// kept is a holding that would be given back if it were not frozen, and by freeze it is.
	kept   *holding
	freeze *ipam.Freeze
	// unknown says that it could not be read whether something is frozen.
	unknown bool
}

// givesBack tells whether a step is not taken while its pool is frozen: whatever frees, and
// whatever ends what others have begun to delete. A living machine only gets a new claim for
// the old one, and its address stays protected in between: that is rebuilding, which goes on.
func (s step) givesBack(m machineState, h holding) bool {
	switch s {
	case dropFinalizers:
		return true
	case removeClaimFinalizer:
		return !m.exists || m.deleting || !h.belongsTo(m)
	}
	return s.frees()
}

// keepFrozen has a holding stay as it is while it is frozen. It asks the API server: who
// freezes something is about to bring back what the decision does not know of yet.
func (r *Reconciler) keepFrozen(ctx context.Context, s *state, d *decision) {
	if !d.step.givesBack(s.machineState, *d.holding) {
		return
	}
	freeze, err := r.freezer.Claims(ctx, s.namespace, d.pool())
	switch {
	case err != nil:
		d.err, s.unknown = fmt.Errorf("finding out what is frozen: %w", err), true
	case freeze != nil:
		d.step, d.wait = idle, allocator.FrozenCheck
		s.kept, s.freeze = d.holding, freeze
	}
}

// pool is that of claim, address or binding.
func (h *holding) pool() ipam.PoolReference {
	switch {
	case h.claim != nil:
		return h.claim.Pool
	case h.address != nil:
		return h.address.Pool
	case h.annotated != nil:
		return h.annotated.Pool
	}
	return ipam.PoolReference{}
}

// isFrozen tells whether the machine has to stay because of something that it has, and says so.
func (r *Reconciler) isFrozen(s *state) bool {
	if s.freeze == nil {
		return s.unknown
	}
	what := "its address"
	if s.kept.address != nil {
		what = s.kept.address.IP
	}
	r.event(s, corev1.EventTypeNormal, "ReleaseFrozen", "Keeping %s, and this machine, because %s: both go when that is over; to end it, %s", what, s.freeze, s.freeze.Until)
	return true
}
