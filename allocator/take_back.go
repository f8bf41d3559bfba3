package allocator

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// TakeBack deletes the claims that a failed attempt made and that nobody used since,
// and unprotects their addresses; likewise the addresses that it took. What it merely found is left to the
// controller that reaps: another request may have been answered with it. It gives
// up on a claim whose machine exists: the same create may have come in twice.
//
// A claim that its provider was too slow to bind is kept for the next machine of
// the same owner, which finds it bound: each try would else begin anew. One that
// somebody offered to this machine is not: the reaper hands it back.
func (a *Allocator) TakeBack(ctx context.Context, attempt *Attempt) error {
	var errs []error
	for _, al := range attempt.allocations {
		if err := kube.RetryOnConflict(func() error { return a.takeBackAddress(ctx, al) }); err != nil {
			errs = append(errs, fmt.Errorf("taking back address %q of claim %s: %w", al.took, al.claimKey(), err))
		}
		if !al.used {
			continue
		}
		err := kube.RetryOnConflict(func() error { return a.takeBack(ctx, al) })
		if err != nil {
			errs = append(errs, fmt.Errorf("taking back claim %s: %w", al.claimKey(), err))
		}
	}
	return errors.Join(errs...)
}

func (a *Allocator) takeBack(ctx context.Context, al *allocation) error {
	// The claim is read before the machine: whoever uses the claim in between changes
	// it, and the delete below conflicts.
	claim := ipam.EmptyClaim(al.provider)
	if err := a.live.Get(ctx, al.claimKey(), claim); err != nil {
		return client.IgnoreNotFound(err)
	}
	stamp := claim.GetAnnotations()[ipam.LastUsedAnnotation]
	made, found := stamp == al.Stamp.String(), stamp == al.Stamp.Again().String()
	keep := al.late && al.Owner.UID != "" && !ipam.IsOffered(claim)
	if isOurs := made || found && keep; !isOurs || !claim.GetDeletionTimestamp().IsZero() {
		return nil
	}
	exists, err := holderExists(ctx, a.live, al.Machine.Namespace, al.Machine.Holder())
	if err != nil || exists {
		return err
	}
	if keep {
		if err := a.unprotect(ctx, al.provider, al.provider.ReadClaim(claim), ""); err != nil {
			return err
		}
		return a.keep(ctx, claim)
	}
	if err := kube.DeleteAsRead(ctx, a.client, claim); err != nil {
		return err
	}
	claimsTakenBack.Inc()
	klog.FromContext(ctx).Info("Took back a claim", "claim", klog.KObj(claim))
	return a.unprotect(ctx, al.provider, al.provider.ReadClaim(claim), "")
}

// keep leaves a claim to the next machine of its owner.
func (a *Allocator) keep(ctx context.Context, claim client.Object) error {
	before := claim.DeepCopyObject().(client.Object)
	kube.SetAnnotation(claim, ipam.KeptAnnotation, "")
	if err := kube.PatchAsRead(ctx, a.client, claim, before); err != nil {
		return client.IgnoreNotFound(err)
	}
	klog.FromContext(ctx).Info("Kept a claim that was not bound in time", "claim", klog.KObj(claim))
	return nil
}
