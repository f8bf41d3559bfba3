package lifecycle

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// isStray tells whether the address was made for a claim of ours, or is left of
// one, but leads nowhere: the claim is gone or has another address, no machine has
// it, and it is not protected. metal3 leaves such an address behind when a claim is
// deleted while it binds it, and when its two controllers, one for each claim
// API, bind a claim at once. It would be missing from its pool for ever.
func (h holding) isStray(machine string) bool {
	return h.claim == nil && h.annotated == nil && h.address != nil && !isProtected(h.address) && !hasMoved(h.address) &&
		(ipam.MachineOf(h.address) == machine || h.address.GetLabels()[ipam.MachineLabel] == ipam.MachineLabelValue(machine))
}

// decideStray waits for the provider to find a use for an address after all. One
// that was a machine's is unprotected because a backup brought it back so.
func decideStray(h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	if h.paused || h.isMoving() {
		return idle, 0
	}
	if h.address.GetAnnotations()[ipam.MachineUIDAnnotation] != "" {
		grace = max(grace, restorePatience)
	}
	switch wait := grace - now.Sub(h.lastMade(now)); {
	case wait > 0:
		return idle, wait
	case h.vmExists || h.sharedWith != "" || h.onDevice:
		return idle, vmCheck
	}
	return deleteStray, 0
}

// deleteStray deletes a stray address, and takes its provider's finalizers off
// before: no claim leads the provider to it. What the cache says of claim and
// machine is asked again of the API server.
func (r *Reconciler) deleteStray(ctx context.Context, s *state, h *holding) error {
	used, err := r.isUsed(ctx, s, h)
	if err != nil || used || !r.providers.For(h.address.Pool).HasOnlyOwnFinalizers(h.address.Object) {
		return err
	}
	before := h.address.DeepCopyObject().(client.Object)
	h.address.SetFinalizers(nil)
	if err := r.patch(ctx, h.address.Object, before); err != nil {
		return client.IgnoreNotFound(err)
	}
	if err := kube.DeleteAsRead(ctx, r.client, h.address.Object); err != nil {
		return fmt.Errorf("discarding address %s: %w", klog.KObj(h.address), err)
	}
	strayAddressesDeleted.Inc()
	klog.FromContext(ctx).Info("Discarded an address that the provider had lost", "address", klog.KObj(h.address), "claim", h.address.Claim)
	return nil
}

// isUsed tells whether a machine holds the address, or a claim may yet give it to
// one.
func (r *Reconciler) isUsed(ctx context.Context, s *state, h *holding) (bool, error) {
	provider := r.providers.OfAddress(h.address.Object)
	obj := ipam.EmptyClaim(provider)
	claimExists, err := r.exists(ctx, machineKey(h.address, h.address.Claim), obj)
	if err != nil {
		return false, fmt.Errorf("looking for claim %s: %w", h.address.Claim, err)
	}
	machine := &capi.VSphereMachine{}
	if _, err := r.exists(ctx, machineKey(h.address, s.name), machine); err != nil {
		return false, fmt.Errorf("looking for the machine: %w", err)
	}
	if hasAddress(machine, capi.ParseAddress(h.address.IP)) {
		return true, nil
	}
	if !claimExists || h.claim != nil && !obj.GetDeletionTimestamp().IsZero() {
		return false, nil
	}
	elsewhere := slices.ContainsFunc(bindingsOf(machine), func(b ipam.Binding) bool { return b.Claim == h.address.Claim })
	answer := provider.ReadClaim(obj).Address
	return answer == "" || answer == h.address.GetName() && !elsewhere, nil
}

// hasAddress tells whether a machine has an address on a device, or says that it
// is bound to it.
func hasAddress(machine *capi.VSphereMachine, ip netip.Addr) bool {
	return ip.IsValid() && (deviceOf(machine, ip) >= 0 ||
		slices.ContainsFunc(bindingsOf(machine), func(b ipam.Binding) bool { return b.Address.Addr() == ip }))
}

// exists asks the API server.
func (r *Reconciler) exists(ctx context.Context, key client.ObjectKey, obj client.Object) (bool, error) {
	err := r.live.Get(ctx, key, obj)
	if kube.IsAbsent(err) {
		return false, nil
	}
	return err == nil, err
}

// bindingsOf are those in the annotation, none if it cannot be read.
func bindingsOf(machine client.Object) []ipam.Binding {
	bindings, err := ipam.ParseBindings(machine.GetAnnotations()[ipam.BindingsAnnotation])
	if err != nil {
		return nil
	}
	return bindings.Bindings
}
