package allocator

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// protectEarly protects an address that answers the claim before the claim names
// it: the provider takes about as long for that as protecting takes. It returns
// the UID of what it protected, or before. What goes wrong here shows again, or
// not, when the claim does name an address.
func (a *Allocator) protectEarly(ctx context.Context, req Request, want Want, claim Claim, before types.UID) types.UID {
	provider := a.providers.For(want.Pool)
	addresses, err := List(ctx, a.client, EmptyAddress(provider), client.InNamespace(claim.GetNamespace()), client.MatchingFields{byClaim: claim.GetName()})
	if err != nil {
		return before
	}
	for _, address := range addresses {
		if address.GetUID() == before || !Answers(address, claim.GetUID()) || !address.GetDeletionTimestamp().IsZero() {
			continue
		}
		if err := a.protect(ctx, req, want, provider.Address(address)); err == nil {
			return address.GetUID()
		}
	}
	return before
}

// protect puts our finalizer on an address before a machine is given it. metal3
// deletes addresses by name, from lists that it read before, in two controllers
// at once: while claims come and go it may delete an address that it has bound
// to another claim meanwhile, and hand it out again. Protected, the address may
// be deleted, but stays taken.
func (a *Allocator) protect(ctx context.Context, req Request, want Want, address Address) error {
	obj := address.Object
	before := obj.DeepCopyObject().(client.Object)
	added := controllerutil.AddFinalizer(obj, InUseFinalizer)
	switch {
	case added:
	case MachineOf(obj) == req.Machine.Name:
		return nil
	default:
		// Another machine, or its VM, is still behind the address.
		return terminating(want, req.claimKey(want))
	}
	setAnnotation(obj, MachineNameAnnotation, req.Machine.Name)
	err := a.client.Patch(ctx, obj, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err), apierrors.IsInvalid(err):
		// It has changed since it was bound: as a rule, it is being deleted.
		klog.FromContext(ctx).Error(err, "Lost an address before it was protected", "address", klog.KObj(obj))
		return terminating(want, req.claimKey(want))
	}
	return fmt.Errorf("protecting address %s: %w", klog.KObj(obj), err)
}
