package lifecycle

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// isCooling tells whether the holding is that of a machine that is gone, and is kept for
// a while. It is not if a machine that lives has the binding and the address on a device:
// a backup brought it back, and has not brought back the claim that was still there.
func (h holding) isCooling(m machineState) bool {
	isRestored := m.exists && h.annotated != nil && !h.offDevice
	return h.isReleased(m.name) && !isRestored
}

// isReleased tells whether the last step for the holding was to cool down. That a claim
// which stays says nothing of it is believed: it was adopted, or is not cooled yet.
func (h holding) isReleased(machine string) bool {
	if h.claim != nil && (ipam.IsReleased(h.claim) || h.isClaimed()) {
		return ipam.IsReleased(h.claim) && ipam.IsMarked(h.claim, machine) && capi.OwnerMachine(h.claim).UID == ""
	}
	return h.address != nil && ipam.IsReleased(h.address) && ipam.MachineOf(h.address) == machine && !h.hadMachine()
}

// hadMachine tells whether the address was a stored machine's, by its own word.
func (h holding) hadMachine() bool {
	return h.address != nil && h.address.GetAnnotations()[ipam.MachineUIDAnnotation] != ""
}

// hasToCool tells whether the address is to be kept after its machine. One that is going,
// and not protected, cannot be; one that lives on elsewhere must not come back.
func (h holding) hasToCool() bool {
	if h.address == nil || h.coolDown.Over || h.moved || hasMoved(h.address) {
		return false
	}
	return h.coolDown.KeptFor(h.pair()) > 0 && (ipam.IsProtected(h.address) || h.isUnprotected())
}

// decideCooling releases what has cooled down. While the Cluster is paused, or clusterctl
// moves the claim, that waits.
func decideCooling(m machineState, h holding, now time.Time) (step, time.Duration) {
	left := h.coolDown.Left(h.pair(), h.seen, now)
	switch {
	case h.paused || h.isMoving():
		return idle, 0
	case h.pair().IsFreed():
		return idle, terminatingCheck
	case left > 0:
		return idle, left
	case h.vmExists, m.exists && (h.onDevice || h.used):
		return idle, vmCheck
	}
	return release, 0
}

// observeCoolDown finds out what the pool of a holding says of a cool-down, where there
// is one, or where it may be about to begin.
func (r *Reconciler) observeCoolDown(ctx context.Context, s *state, h *holding) error {
	cooling := h.isCooling(s.machineState)
	if cooling && h.pair().IsFreed() || !cooling && !h.mayCool(s.machineState) {
		return nil
	}
	var err error
	h.coolDown, err = r.cooler().Read(ctx, s.namespace, h.pair(), cooling)
	return err
}

func (r *Reconciler) cooler() allocator.Cooler {
	return allocator.Cooler{Providers: r.providers, Client: r.client, Live: r.live, Pools: r.pools, Events: r.events, ReuseAfter: r.reuseAfter}
}

// pair are claim and address of the holding.
func (h holding) pair() allocator.Pair { return allocator.Pair{Claim: h.claim, Address: h.address} }

// mayCool tells whether the next step may be to cool down.
func (h *holding) mayCool(m machineState) bool {
	switch {
	case h.address == nil:
		return false
	case !m.exists || h.isOfEarlierMachine(m):
		return h.hadMachine()
	}
	return m.done
}

// cool takes a binding from a machine that is gone, and keeps the address for a while.
func (r *Reconciler) cool(ctx context.Context, s *state, h *holding) error {
	if h.isReleased(s.name) && !h.hadMachine() {
		return nil
	}
	if err := r.cooler().Begin(ctx, h.pair(), ipam.Machine{NamespacedName: s.key(), Cluster: s.clusterOf(h)}, r.now()); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Keeping an address from being handed out again", "address", h.address.IP, "for", h.coolDown.Lasts)
	r.event(s, corev1.EventTypeNormal, "AddressCooling", "Keeping %s from being handed out again for %s", h.address.IP, h.coolDown.Lasts)
	return nil
}

// countCooling counts what cools down of one machine.
func (r *Reconciler) countCooling(s *state) {
	count := 0
	for _, h := range s.holdings {
		if h.isCooling(s.machineState) && !h.pair().IsFreed() {
			count++
		}
	}
	r.cooling.Note(s.key(), count)
}
