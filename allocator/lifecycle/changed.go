package lifecycle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// checkDevice tells, once, that a living machine has another address on its devices
// than the one that it was given: a webhook after ours changed it, as a rule. Both
// stay taken: the one that it was given is its own, and no address is given to
// anybody while it is on a device.
func (r *Reconciler) checkDevice(ctx context.Context, s *state, h *holding) {
	if !s.exists || s.deleting || s.moving || h.paused || !h.offDevice || h.claim == nil || !h.belongsTo(s.machineState) {
		return
	}
	told := true
	r.sightings.update(s.uid, func(s *sighting) { told, s.told = s.told, true })
	if told {
		return
	}
	addressesChanged.Inc()
	klog.FromContext(ctx).Error(nil, "The machine does not have the address that it was given", "machine", client.ObjectKeyFromObject(s.object), "address", h.annotated.Address)
	r.event(s, corev1.EventTypeWarning, "AddressChanged",
		"%s %s gave this machine %s, but none of its devices has it: something after capv-static-ip changes devices; correct that, and replace the machine",
		h.annotated.Pool.Kind, h.annotated.Pool.Name, h.annotated.Address)
}
