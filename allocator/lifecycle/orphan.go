package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
)

// tellAwaited says on a claim, once, for how long it waits for its machine.
func (r *Reconciler) tellAwaited(s *state, h *holding) {
	told := true
	r.sightings.update(h.claim.GetUID(), func(s *sighting) { told, s.told = s.told, true })
	if told {
		return
	}
	r.events.Eventf(h.claim.Object, nil, corev1.EventTypeWarning, "MachineMissing", "Reconcile",
		"VSphereMachine %q, which held this claim, does not exist: the claim is deleted after %s unless the machine comes back; delete it to free the address at once",
		s.name, max(r.grace, restorePatience))
}

// noteUnstored has written on the owner for which a machine was to be made that
// something refuses its machines, so that it is made to try again. The machine may
// have been stored after all, which costs its owner a try that finds nothing to do.
func (r *Reconciler) noteUnstored(ctx context.Context, s *state, h *holding) error {
	if err := r.refusals.NoteUnstored(ctx, s.namespace, ipam.RequesterOf(h.requested())); err != nil {
		return fmt.Errorf("noting a machine that was not stored: %w", err)
	}
	return nil
}

// reap deletes a claim that no machine uses. Who has used it since it was read again
// has changed its stamp, and the write conflicts.
func (r *Reconciler) reap(ctx context.Context, s *state, h *holding) error {
	if !s.exists && h.wasAnswered() {
		// The last moment to say so: this leader may have come to the claim late.
		if err := r.noteUnstored(ctx, s, h); err != nil {
			return err
		}
	}
	if _, err := r.deleteClaim(ctx, h.claim.Object); err != nil {
		return fmt.Errorf("reaping claim %s: %w", klog.KObj(h.claim), err)
	}
	claimsReaped.Inc()
	klog.FromContext(ctx).Info("Reaped a claim that no machine uses", "claim", klog.KObj(h.claim))
	return nil
}

// giveBack deletes an address that was taken for a machine which never came, goes without
// a claim, or was given another one. Who has used it since it was read has changed its stamp,
// and the write conflicts.
func (r *Reconciler) giveBack(ctx context.Context, s *state, h *holding) error {
	if !s.exists && h.wasAnswered() {
		if err := r.noteUnstored(ctx, s, h); err != nil {
			return err
		}
	}
	if err := allocator.GiveBack(ctx, r.client, r.providers.For(h.address.Pool), *h.address); err != nil {
		return fmt.Errorf("giving back address %s: %w", klog.KObj(h.address), err)
	}
	return nil
}

// handBack takes our marks off a claim that somebody made for a machine, and off
// its address: both are its maker's again. The address comes first: with the claim's
// marks gone nothing leads back to it. A request that uses the claim in between makes
// the second write conflict, and adoption protects its address again.
func (r *Reconciler) handBack(ctx context.Context, h *holding) error {
	if err := r.unprotect(ctx, h, handedBack); err != nil {
		return err
	}
	claim := h.claim.Object
	before := claim.DeepCopyObject().(client.Object)
	ipam.HandBack(claim)
	if err := r.patch(ctx, claim, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("handing back claim %s: %w", klog.KObj(claim), err)
	}
	klog.FromContext(ctx).Info("Handed back a claim that was offered to a machine which never came", "claim", klog.KObj(claim))
	return nil
}
