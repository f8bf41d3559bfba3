package lifecycle

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// decideOrphan leaves a claim to the request that may still store its machine, or
// to the restore that may still bring it. The address stays protected for as long
// as the claim lives.
func decideOrphan(m machineState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	if m.exists || !isOrphan(h.claim, m.name) {
		return idle, 0
	}
	switch wait := graceOf(h.claim, grace) - now.Sub(h.lastUsed(now)); {
	case wait > 0 && wasAdopted(h.claim):
		return awaitMachine, wait
	case wait > 0:
		return decideUnstored(h, now, wait)
	case h.vmExists:
		return idle, vmCheck
	}
	return reap, 0
}

// decideUnstored has the owner told of a machine that was answered and not stored,
// again and again for as long as its claim is there: whatever refuses it leaves no
// trace that could be watched, so the owner is to go on trying.
func decideUnstored(h holding, now time.Time, wait time.Duration) (step, time.Duration) {
	switch unstored := storingPatience - now.Sub(h.lastUsed(now)); {
	case !h.wasAnswered():
		return idle, wait
	case unstored > 0:
		return idle, min(wait, unstored)
	}
	return note, min(wait, noteInterval)
}

// wasAnswered tells whether an owner's request was answered with the claim, as far
// as can be seen: its address is protected for a machine.
func (h holding) wasAnswered() bool {
	_, kept := h.claim.GetAnnotations()[ipam.KeptAnnotation]
	return !kept && h.address != nil && isProtected(h.address) && ipam.RequesterOf(h.claim) != ""
}

// isOrphan tells whether the claim waits for a machine of this name that never
// came. A claim with an owner is the garbage collector's.
func isOrphan(claim client.Object, machine string) bool {
	return ipam.IsMarked(claim, machine) &&
		len(claim.GetOwnerReferences()) == 0 &&
		claim.GetDeletionTimestamp().IsZero()
}

// wasAdopted tells whether the claim had a machine once. Then it is here without
// one because a backup was restored, as a rule: that strips owners, and brings
// claims before machines.
func wasAdopted(claim client.Object) bool {
	_, requested := claim.GetAnnotations()[ipam.RequestedByAnnotation]
	return !requested
}

// graceOf is the grace period of a claim without a machine. That its Cluster does
// not exist either is no reason to be quick: a backup brings that last.
func graceOf(claim client.Object, grace time.Duration) time.Duration {
	if wasAdopted(claim) {
		return max(grace, restorePatience)
	}
	return grace
}

// lastUsed is the latest of when a request used the claim, when it was made, and
// when this leader first saw it as it is.
func (h holding) lastUsed(now time.Time) time.Time {
	times := []time.Time{h.claim.GetCreationTimestamp().Time}
	if stamp, err := ipam.StampOf(h.claim); err == nil {
		times = append(times, stamp.Time)
	}
	return latest(now, h.seen, times...)
}

// lastMade is the latest of when the address was made, and when this leader first
// saw it as it is.
func (h holding) lastMade(now time.Time) time.Time {
	return latest(now, h.seen, h.address.GetCreationTimestamp().Time)
}

// latest is the latest of when this leader saw an object, by its own clock, and of
// times by the clocks of others: what is in the future by this one says nothing.
func latest(now, seen time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if t.After(seen) && !t.After(now) {
			seen = t
		}
	}
	return seen
}

// tellKept says on a claim, once, for how long it waits for its machine.
func (r *Reconciler) tellKept(s *state, h *holding) {
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
	if err := r.refusals.NoteUnstored(ctx, s.namespace, ipam.RequesterOf(h.claim)); err != nil {
		return fmt.Errorf("noting a machine that was not stored: %w", err)
	}
	return nil
}

// reap deletes a claim that no machine uses, or takes our marks off one that
// somebody else made. The claim is read before the machine, both from the API server: a request
// that comes in between has changed the claim's stamp, and the write conflicts.
func (r *Reconciler) reap(ctx context.Context, s *state, h *holding) error {
	provider := r.providers.For(h.claim.Pool)
	claim := ipam.EmptyClaim(provider)
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(h.claim), claim); err != nil {
		return client.IgnoreNotFound(err)
	}
	if claim.GetUID() != h.claim.GetUID() || claim.GetResourceVersion() != h.claim.GetResourceVersion() || !isOrphan(claim, s.name) {
		// The cache is behind, and brings what has changed.
		return nil
	}
	machine := &capi.VSphereMachine{}
	if exists, err := r.exists(ctx, machineKey(claim, s.name), machine); err != nil || exists != s.exists || machine.UID != s.uid || r.holds(machine, h) {
		return err
	}
	if _, offered := claim.GetAnnotations()[ipam.ForAnnotation]; offered {
		return r.handBack(ctx, h, claim)
	}
	if !s.exists && h.wasAnswered() {
		// The last moment to say so: this leader may have come to the claim late.
		if err := r.noteUnstored(ctx, s, h); err != nil {
			return err
		}
	}
	if _, err := r.deleteClaim(ctx, claim); err != nil {
		return fmt.Errorf("reaping claim %s: %w", klog.KObj(claim), err)
	}
	claimsReaped.Inc()
	klog.FromContext(ctx).Info("Reaped a claim that no machine uses", "claim", klog.KObj(claim))
	return nil
}

// handBack takes our marks off a claim that somebody made for a machine, and off
// its address: both are its maker's again.
func (r *Reconciler) handBack(ctx context.Context, h *holding, claim client.Object) error {
	if err := r.unprotect(ctx, h, handedBack); err != nil {
		return err
	}
	before := claim.DeepCopyObject().(client.Object)
	ipam.HandBack(claim)
	if err := r.patch(ctx, claim, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("handing back claim %s: %w", klog.KObj(claim), err)
	}
	klog.FromContext(ctx).Info("Handed back a claim that was offered to a machine which never came", "claim", klog.KObj(claim))
	return nil
}
