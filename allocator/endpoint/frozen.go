package endpoint

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"capv-static-ip.dev/allocator/ipam"
)

// frost is what is known of what is frozen of a VSphereCluster.
type frost struct {
	// kept is a holding that would be given back if it were not frozen, and by freeze it is.
	kept   *holding
	freeze *ipam.Freeze
	// unknown says that it could not be read whether something is frozen.
	unknown bool
}

// givesBack tells whether a step is not taken while its pool is frozen. One that lives only
// gets a new claim for the old one, and its address stays protected in between.
func (s step) givesBack(c clusterState) bool {
	return s.frees() || s == removeClaimFinalizer && (!c.exists || c.deleting)
}

// keepFrozen tells whether a holding has to stay as it is because it is frozen, by what the
// API server says.
func (r *reconciler) keepFrozen(ctx context.Context, s *state, h *holding, next step) (bool, error) {
	if !next.givesBack(s.clusterState) {
		return false, nil
	}
	freeze, err := r.freezer.Claims(ctx, s.key.Namespace, h.pool())
	switch {
	case err != nil:
		s.unknown = true
		return false, fmt.Errorf("finding out what is frozen: %w", err)
	case freeze != nil:
		s.kept, s.freeze = h, freeze
	}
	return freeze != nil, nil
}

// isFrozen tells whether the VSphereCluster has to stay because its endpoint is frozen, and
// says so.
func (r *reconciler) isFrozen(s *state) bool {
	if s.freeze == nil {
		return s.unknown
	}
	r.event(s, corev1.EventTypeNormal, "ReleaseFrozen", "Keeping %s, and this VSphereCluster, because %s: both go when that is over; to end it, %s",
		s.kept.ip(), s.freeze, s.freeze.Until)
	return true
}
