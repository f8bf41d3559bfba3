package release

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
)

// release gives a binding back. It waits for nothing that the provider must do.
func (r *Reconciler) release(ctx context.Context, s *state, h *holding) error {
	if err := r.unprotect(ctx, h); err != nil {
		return err
	}
	if h.claim != nil {
		if err := r.giveUp(ctx, h.claim.Object); err != nil {
			return fmt.Errorf("releasing claim %s: %w", klog.KObj(h.claim), err)
		}
	}
	claimsReleased.Inc()
	if h.address != nil {
		klog.FromContext(ctx).Info("Released an address", "address", h.address.IP)
		r.event(s, corev1.EventTypeNormal, "AddressReleased", "Released %s to %s %s", h.address.IP, h.address.Pool.Kind, h.address.Pool.Name)
	}
	return nil
}

// unprotect takes our finalizer and marks off the address, and these labels.
func (r *Reconciler) unprotect(ctx context.Context, h *holding, labels ...string) error {
	if h.address == nil || !isProtected(h.address) {
		return nil
	}
	address := h.address.Object
	before := address.DeepCopyObject().(client.Object)
	controllerutil.RemoveFinalizer(address, allocator.InUseFinalizer)
	annotations := address.GetAnnotations()
	delete(annotations, allocator.MachineNameAnnotation)
	delete(annotations, allocator.MachineUIDAnnotation)
	address.SetAnnotations(annotations)
	for _, label := range labels {
		delete(address.GetLabels(), label)
	}
	if err := r.patch(ctx, address, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("unprotecting address %s: %w", klog.KObj(address), err)
	}
	klog.FromContext(ctx).Info("Unprotected an address", "address", klog.KObj(address))
	return nil
}

// giveUp deletes a claim, unless it is being deleted already, so that its
// provider frees the address.
func (r *Reconciler) giveUp(ctx context.Context, claim client.Object) error {
	if err := r.yield(ctx, claim); err != nil || !claim.GetDeletionTimestamp().IsZero() {
		return err
	}
	return allocator.DeleteAsRead(ctx, r.client, claim)
}

// yield takes our finalizer off a claim.
func (r *Reconciler) yield(ctx context.Context, claim client.Object) error {
	before := claim.DeepCopyObject().(client.Object)
	if !controllerutil.RemoveFinalizer(claim, allocator.InUseFinalizer) {
		return nil
	}
	return client.IgnoreNotFound(r.patch(ctx, claim, before))
}

// unblock leaves the claim the machine's own, and lets the machine go before it.
func (r *Reconciler) unblock(ctx context.Context, s *state, h *holding) error {
	before := h.claim.DeepCopyObject().(client.Object)
	owners := h.claim.GetOwnerReferences()
	for i := range owners {
		if owners[i].UID == s.uid {
			owners[i].BlockOwnerDeletion = new(false)
		}
	}
	h.claim.SetOwnerReferences(owners)
	if err := r.patch(ctx, h.claim.Object, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("keeping claim %s from holding up its machine: %w", klog.KObj(h.claim), err)
	}
	return nil
}

// abandon takes the provider's finalizers off a claim that is being deleted and
// has no pool: the provider looks at claims pool by pool, so this one it never
// will, and its namespace could not go.
func (r *Reconciler) abandon(ctx context.Context, h *holding) error {
	before := h.claim.DeepCopyObject().(client.Object)
	controllerutil.RemoveFinalizer(h.claim, allocator.InUseFinalizer)
	if !r.providers.For(h.claim.Pool).IsFree(h.claim.Object) {
		return nil
	}
	h.claim.SetFinalizers(nil)
	if err := r.patch(ctx, h.claim.Object, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("abandoning claim %s: %w", klog.KObj(h.claim), err)
	}
	klog.FromContext(ctx).Info("Let a claim go whose pool does not exist", "claim", klog.KObj(h.claim))
	return nil
}

// unprotectLeft unprotects what a machine has left behind, unless the cache was
// wrong about it.
func (r *Reconciler) unprotectLeft(ctx context.Context, s *state, h *holding) error {
	machine := &capi.VSphereMachine{}
	exists, err := r.exists(ctx, keyOf(h.address, s.name), machine)
	if err != nil {
		return fmt.Errorf("looking for the machine: %w", err)
	}
	uid := h.address.GetAnnotations()[allocator.MachineUIDAnnotation]
	switch {
	case exists && uid == string(machine.UID):
		return nil
	case exists && uid == "":
		if used, err := r.isUsed(ctx, s, h); err != nil || used {
			return err
		}
		return r.unprotect(ctx, h)
	}
	claim := allocator.EmptyClaim(r.providers.For(h.address.Pool))
	exists, err = r.exists(ctx, keyOf(h.address, h.address.Claim), claim)
	if err != nil {
		return fmt.Errorf("looking for the claim: %w", err)
	}
	if exists && claim.GetDeletionTimestamp().IsZero() && allocator.Answers(h.address.Object, claim.GetUID()) {
		// It is protected for a machine that is being admitted.
		return nil
	}
	if h.isHeldBack(s.name) {
		// Its provider frees the address when it may go.
		if err := r.unprotect(ctx, h); err != nil {
			return err
		}
		return r.yield(ctx, h.claim.Object)
	}
	if uid != "" && h.address.GetDeletionTimestamp().IsZero() {
		// Nobody frees it: as a rule, because its machine was moved to another
		// management cluster, where it uses the address. Without the label it
		// is not taken for one that the provider has lost, and stays taken.
		return r.unprotect(ctx, h, allocator.MachineLabel)
	}
	return r.unprotect(ctx, h)
}

// letGo takes our finalizer off a machine that is otherwise done. What its VMs
// still use stays protected without it.
func (r *Reconciler) letGo(ctx context.Context, s *state) error {
	if !s.done || s.moving || !controllerutil.ContainsFinalizer(s.object, allocator.ReleaseFinalizer) {
		return nil
	}
	before := s.object.DeepCopy()
	controllerutil.RemoveFinalizer(s.object, allocator.ReleaseFinalizer)
	return client.IgnoreNotFound(r.patch(ctx, s.object, before))
}

// reap deletes an orphan claim. The claim is read before the machine, both from
// the API server: a request that comes in between has changed the claim's
// stamp, and the delete conflicts.
func (r *Reconciler) reap(ctx context.Context, s *state, h *holding) error {
	provider := r.providers.For(h.claim.Pool)
	claim := allocator.EmptyClaim(provider)
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(h.claim), claim); err != nil {
		return client.IgnoreNotFound(err)
	}
	fresh := provider.Claim(claim)
	if !(holding{claim: &fresh}).isOrphan(s.name) || time.Since(lastUsed(claim)) < r.grace {
		return nil
	}
	if exists, err := r.exists(ctx, keyOf(claim, s.name), &capi.VSphereMachine{}); err != nil || exists {
		return err
	}
	if err := r.giveUp(ctx, claim); err != nil {
		return fmt.Errorf("reaping claim %s: %w", klog.KObj(claim), err)
	}
	claimsReaped.Inc()
	klog.FromContext(ctx).Info("Reaped a claim without a machine", "claim", klog.KObj(claim))
	return nil
}
