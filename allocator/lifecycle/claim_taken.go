package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// claimTaken makes the claim of an address that was taken for a machine, which is stored now.
// It is the machine's own from its first moment, and the address its answer from then on. The
// claim asks for that very address, so that a provider that does not know of the address yet
// gives it no other.
func (r *Reconciler) claimTaken(ctx context.Context, s *state, h *holding) error {
	uses, err := r.confirmUse(ctx, s, h.annotated)
	if err != nil || !uses {
		return err
	}
	claim := r.recreation().NewClaim(ctx, identityOf(s.object), *h.annotated)
	r.markOwned(claim, s, h.annotated)
	ipam.Inherit(claim, h.address)
	made, err := r.recreation().Make(ctx, claim, *h.annotated, false, r.now())
	if err != nil {
		return err
	}
	if !made {
		// The cache is behind, and brings it.
		return nil
	}
	if err := r.answerClaim(ctx, s, h, claim); err != nil {
		return err
	}
	r.recreation().CountClaimed()
	klog.FromContext(ctx).Info("Claimed an address that was taken", "claim", klog.KObj(claim), "address", h.annotated.Address)
	r.tellBound(s, h.annotated)
	return nil
}

// answerClaim writes on an address that was taken that it is the machine's and answers its
// claim, as its provider would have.
func (r *Reconciler) answerClaim(ctx context.Context, s *state, h *holding, claim client.Object) error {
	address := h.address.Object
	before := address.DeepCopyObject().(client.Object)
	if err := r.handOver(address, claim); err != nil {
		return err
	}
	kube.SetAnnotation(address, ipam.MachineUIDAnnotation, string(s.uid))
	if err := r.patch(ctx, address, before); err != nil {
		return fmt.Errorf("handing address %s over to its claim: %w", klog.KObj(address), err)
	}
	return nil
}

// handOver makes an address that was taken its claim's.
func (r *Reconciler) handOver(address, claim client.Object) error {
	ipam.HandOver(address)
	return ipam.Own(address, claim, r.client.Scheme())
}

// tellBound tells the user which address a machine holds.
func (r *Reconciler) tellBound(s *state, b *ipam.Binding) {
	r.event(s, corev1.EventTypeNormal, "AddressBound", "Holding %s from %s %s", b.Address, b.Pool.Kind, b.Pool.Name)
}
