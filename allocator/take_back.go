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

// TakeBack deletes the claims that this request made and that nobody used since,
// and unprotects their addresses. What the request merely found is left to the
// controller that reaps: another request may have been answered with it. It gives
// up on a claim whose machine exists: the same create may have come in twice.
//
// A claim that its provider was too slow to bind is kept for the next machine of
// the same owner, which finds it bound: each try would else begin anew. One that
// somebody offered to this machine is not: the reaper hands it back.
func (a *Allocator) TakeBack(ctx context.Context, req Request) error {
	var errs []error
	for _, want := range req.Wants {
		if want.Claim == "" {
			continue
		}
		err := kube.RetryOnConflict(func() error { return a.takeBack(ctx, req, want) })
		if err != nil {
			errs = append(errs, fmt.Errorf("taking back claim %s: %w", req.claimKey(want), err))
		}
	}
	return errors.Join(errs...)
}

func (a *Allocator) takeBack(ctx context.Context, req Request, want ipam.Want) error {
	provider := a.providers.For(want.Pool)
	claim := ipam.EmptyClaim(provider)
	if err := a.live.Get(ctx, req.claimKey(want), claim); err != nil {
		return client.IgnoreNotFound(err)
	}
	stamp := claim.GetAnnotations()[ipam.LastUsedAnnotation]
	made, found := stamp == req.Stamp.String(), stamp == req.Stamp.Again().String()
	_, offered := claim.GetAnnotations()[ipam.ForAnnotation]
	keep := want.Late && req.Owner.UID != "" && !offered
	if isOurs := made || found && keep; !isOurs || !claim.GetDeletionTimestamp().IsZero() {
		return nil
	}
	exists, err := machineExists(ctx, a.live, req.Machine.NamespacedName)
	if err != nil || exists {
		return err
	}
	if keep {
		if err := a.unprotect(ctx, provider, claim); err != nil {
			return err
		}
		return a.keep(ctx, claim)
	}
	if err := kube.DeleteAsRead(ctx, a.client, claim); err != nil {
		return err
	}
	claimsTakenBack.Inc()
	klog.FromContext(ctx).Info("Took back a claim", "claim", klog.KObj(claim))
	return a.unprotect(ctx, provider, claim)
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
