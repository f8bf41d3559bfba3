package allocator

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// protect puts our finalizer on an address before a machine is given it. metal3
// deletes addresses by name, from lists that it read before, in two controllers
// at once: while claims come and go it may delete an address that it has bound
// to another claim meanwhile, and hand it out again. Protected, the address may
// be deleted, but stays taken.
func (a *Allocator) protect(ctx context.Context, al *allocation, address ipam.Address) error {
	obj := address.Object
	before := obj.DeepCopyObject().(client.Object)
	uid := types.UID(obj.GetAnnotations()[ipam.MachineUIDAnnotation])
	switch {
	case ipam.IsReleased(obj):
		// It was an earlier machine's, and its claim is gone.
		return a.coolingDown(al, address.Claim, address.Pool)
	case !obj.GetDeletionTimestamp().IsZero():
		return terminating(al)
	case !ipam.IsProtected(obj):
	case ipam.HolderOf(obj) != al.Machine.Holder() || uid != "" && uid != al.UID:
		// Another machine, an earlier one of the name, or its VM is still behind the address.
		return terminating(al)
	case uid == al.UID:
		return nil
	}
	ipam.ProtectFor(obj, al.Machine.Holder())
	// From now on what is known of the request stands on the claim.
	ipam.HandOver(obj)
	if al.isStored() && al.Machine.Kind == ipam.OfMachine {
		kube.SetAnnotation(obj, ipam.MachineUIDAnnotation, string(al.UID))
	}
	if network := al.want.Network(); network != "" {
		kube.SetAnnotation(obj, ipam.NetworkAnnotation, network)
	}
	err := kube.PatchAsRead(ctx, a.client, obj, before)
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err), apierrors.IsInvalid(err):
		// It has changed since it was bound: as a rule, it is being deleted.
		klog.FromContext(ctx).Info("Lost an address before it was protected", "address", klog.KObj(obj), "reason", apierrors.ReasonForError(err))
		return terminating(al)
	}
	return fmt.Errorf("protecting address %s: %w", klog.KObj(obj), err)
}

// unprotect takes back what protect did for a claim that was taken back. A
// machine that was adopted has its UID on the address, which then stays its own,
// unless it is that of the machine whose claim is taken back; and one that cools down was
// never the request's.
func (a *Allocator) unprotect(ctx context.Context, provider ipam.Provider, claim ipam.Claim, machine types.UID) error {
	addresses, err := a.addressesOf(ctx, provider, claim)
	if err != nil {
		return err
	}
	for _, obj := range addresses {
		isRead := true
		err := kube.RetryOnConflict(func() error {
			if !isRead {
				if err := a.live.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
					return client.IgnoreNotFound(err)
				}
			}
			isRead = false
			uid := types.UID(obj.GetAnnotations()[ipam.MachineUIDAnnotation])
			isAnothers := ipam.HolderOf(obj) != ipam.HolderOf(claim) || uid != "" && uid != machine
			if !ipam.Answers(obj, claim.GetUID()) || isAnothers || ipam.IsReleased(obj) {
				return nil
			}
			before := obj.DeepCopyObject().(client.Object)
			ipam.Unprotect(obj)
			return client.IgnoreNotFound(kube.PatchAsRead(ctx, a.client, obj, before))
		})
		if err != nil {
			return fmt.Errorf("unprotecting address %s: %w", klog.KObj(obj), err)
		}
	}
	return nil
}

// addressesOf are the addresses that a claim may have been answered with, as the API server
// has them: those that name it by the word of the cache, and the one that it names, which
// the cache may not have yet.
func (a *Allocator) addressesOf(ctx context.Context, provider ipam.Provider, claim ipam.Claim) ([]client.Object, error) {
	cached, err := kube.List(ctx, a.client, ipam.EmptyAddress(provider), client.InNamespace(claim.GetNamespace()),
		client.MatchingFields{byClaim: claim.GetName()}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of claim %s: %w", klog.KObj(claim), err)
	}
	var names []string
	for _, address := range cached {
		names = append(names, address.GetName())
	}
	if claim.Address != "" && !slices.Contains(names, claim.Address) {
		names = append(names, claim.Address)
	}
	var addresses []client.Object
	for _, name := range names {
		obj, key := ipam.EmptyAddress(provider), client.ObjectKey{Namespace: claim.GetNamespace(), Name: name}
		err := a.live.Get(ctx, key, obj)
		switch {
		case err == nil:
			addresses = append(addresses, obj)
		case !kube.IsAbsent(err):
			return nil, fmt.Errorf("reading address %s: %w", key, err)
		}
	}
	return addresses, nil
}
