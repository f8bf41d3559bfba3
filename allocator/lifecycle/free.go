package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// release gives a binding back. It waits for nothing that the provider must do.
// What is given back already, and is still there, is the provider's.
func (r *Reconciler) release(ctx context.Context, s *state, h *holding) error {
	protected := h.address != nil && ipam.IsProtected(h.address)
	if protected {
		if err := r.unprotect(ctx, h, decideFate(s.machineState, *h)); err != nil {
			return err
		}
	}
	given := false
	if h.claim != nil {
		var err error
		if given, err = r.deleteClaim(ctx, h.claim.Object); err != nil {
			return fmt.Errorf("releasing claim %s: %w", klog.KObj(h.claim), err)
		}
	}
	if !given && !protected {
		return nil
	}
	claimsReleased.Inc()
	if h.address != nil {
		klog.FromContext(ctx).Info("Released an address", "address", h.address.IP)
		r.event(s, corev1.EventTypeNormal, "AddressReleased", "Released %s to %s %s", h.address.IP, h.address.Pool.Kind, h.address.Pool.Name)
	}
	return nil
}

// unprotect takes our finalizer and marks off the address.
func (r *Reconciler) unprotect(ctx context.Context, h *holding, then fate) error {
	if h.address == nil || !ipam.IsProtected(h.address) {
		return nil
	}
	address := h.address.Object
	before := address.DeepCopyObject().(client.Object)
	machine := ipam.MachineOf(address)
	ipam.Unprotect(address)
	switch then {
	case lost:
		if machine != "" {
			kube.SetAnnotation(address, ipam.MachineNameAnnotation, machine)
		}
	case moved:
		kube.SetAnnotation(address, ipam.MovedAnnotation, "")
		delete(address.GetLabels(), ipam.MachineLabel)
	case handedBack:
		delete(address.GetLabels(), ipam.MachineLabel)
	case freed:
	}
	if err := r.patch(ctx, address, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("unprotecting address %s: %w", klog.KObj(address), err)
	}
	r.ownWrite(address)
	klog.FromContext(ctx).Info("Unprotected an address", "address", klog.KObj(address))
	return nil
}

// deleteClaim deletes a claim, unless it is being deleted already, so that its
// provider frees the address. It tells whether there was anything to be done.
func (r *Reconciler) deleteClaim(ctx context.Context, claim client.Object) (bool, error) {
	before := claim.DeepCopyObject().(client.Object)
	controllerutil.RemoveFinalizer(claim, ipam.InUseFinalizer)
	changed := !equality.Semantic.DeepEqual(before, claim)
	if changed {
		if err := r.patch(ctx, claim, before); err != nil {
			return false, client.IgnoreNotFound(err)
		}
	}
	if !claim.GetDeletionTimestamp().IsZero() {
		return changed, nil
	}
	err := kube.DeleteAsRead(ctx, r.client, claim)
	// A conflict would have all of this decided again, for what is done by now.
	if apierrors.IsConflict(err) && r.isGoing(ctx, claim) {
		err = nil
	}
	return true, err
}

// isGoing tells whether others, as a rule the garbage collector, were quicker to
// delete the object.
func (r *Reconciler) isGoing(ctx context.Context, read client.Object) bool {
	obj := read.DeepCopyObject().(client.Object)
	exists, err := r.exists(ctx, client.ObjectKeyFromObject(read), obj)
	return err == nil && (!exists || obj.GetUID() != read.GetUID() || !obj.GetDeletionTimestamp().IsZero())
}

// removeClaimFinalizer takes our finalizer off a claim.
func (r *Reconciler) removeClaimFinalizer(ctx context.Context, claim client.Object) error {
	before := claim.DeepCopyObject().(client.Object)
	if !controllerutil.RemoveFinalizer(claim, ipam.InUseFinalizer) {
		return nil
	}
	return client.IgnoreNotFound(r.patch(ctx, claim, before))
}

// markMoved notes on an address that clusterctl takes its machine away. Nothing else
// tells it from one whose claim and machine were taken away by force.
func (r *Reconciler) markMoved(ctx context.Context, h *holding) error {
	before := h.address.DeepCopyObject().(client.Object)
	kube.SetAnnotation(h.address, ipam.MovedAnnotation, "")
	if err := r.patch(ctx, h.address.Object, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("noting the move on address %s: %w", klog.KObj(h.address), err)
	}
	return nil
}

// releaseAddress unprotects what a machine has left behind, or does not use. If the claim
// waits for us to be deleted, it may go then: its provider frees the address with it.
func (r *Reconciler) releaseAddress(ctx context.Context, s *state, h *holding) error {
	then := decideFate(s.machineState, *h)
	if err := r.unprotect(ctx, h, then); err != nil || then != freed || !h.isHeldBack(s.name) {
		return err
	}
	return r.removeClaimFinalizer(ctx, h.claim.Object)
}

// deleteStray deletes a stray address.
func (r *Reconciler) deleteStray(ctx context.Context, h *holding) error {
	return allocator.DeleteStray(ctx, r.client, *h.address)
}

// removeMachineFinalizer takes our finalizer off a machine that is otherwise done. What its VMs
// still use stays protected without it; what is frozen keeps it.
func (r *Reconciler) removeMachineFinalizer(ctx context.Context, s *state) error {
	if !s.done || s.moving || !controllerutil.ContainsFinalizer(s.object, ipam.ReleaseFinalizer) || r.isFrozen(s) {
		return nil
	}
	before := s.object.DeepCopy()
	controllerutil.RemoveFinalizer(s.object, ipam.ReleaseFinalizer)
	return client.IgnoreNotFound(r.patch(ctx, s.object, before))
}
