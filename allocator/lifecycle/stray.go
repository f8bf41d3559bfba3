package lifecycle

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

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

// holds tells whether a machine holds the claim by its bindings, or its address.
func (r *Reconciler) holds(machine *capi.VSphereMachine, h *holding) bool {
	provider := r.providers.For(h.claim.Pool)
	bound := slices.ContainsFunc(bindingsOf(machine), func(b ipam.Binding) bool {
		return b.Claim == h.claim.GetName() && r.providers.For(b.Pool) == provider
	})
	return bound || h.address != nil && hasAddress(machine, capi.ParseAddress(h.address.IP))
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
