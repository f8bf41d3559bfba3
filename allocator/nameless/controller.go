package nameless

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// useCheck is how often an address is looked at that something still has, or claims.
const useCheck = time.Minute

// reconciler looks after the addresses of one provider.
type reconciler struct {
	provider ipam.Provider
	client   client.Client
	live     client.Reader
	freezer  allocator.Freezer
}

// Reconcile implements reconcile.Reconciler. What it reads, it reads from the API server: the
// address is free afterwards.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	obj := ipam.EmptyAddress(r.provider)
	if err := r.live.Get(ctx, req.NamespacedName, obj); err != nil {
		if kube.IsAbsent(err) {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("reading address %s: %w", req.NamespacedName, err)
	}
	if !isNameless(obj) {
		return reconcile.Result{}, nil
	}
	address := r.provider.ReadAddress(obj)
	freeze, err := r.freezer.Claims(ctx, obj.GetNamespace(), address.Pool)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("finding out what is frozen: %w", err)
	}
	if freeze != nil {
		return reconcile.Result{RequeueAfter: allocator.FrozenCheck}, nil
	}
	held, err := r.isHeld(ctx, address)
	if err != nil {
		return reconcile.Result{}, err
	}
	if held {
		return reconcile.Result{RequeueAfter: useCheck}, nil
	}
	return reconcile.Result{}, r.letGo(ctx, address)
}

// isNameless tells whether an address is being deleted, and only our finalizer, without any of
// the marks that come with it, keeps it. A move takes marks off, too.
func isNameless(address client.Object) bool {
	_, isLabelled := address.GetLabels()[ipam.MachineLabel]
	return !address.GetDeletionTimestamp().IsZero() && ipam.IsProtected(address) && ipam.HolderOf(address).Name == "" &&
		!ipam.IsReleased(address) && !isLabelled && !capi.IsMoving(address)
}

// isHeld tells whether a claim that stays has the name that the address answers to, or anything
// in its namespace has the address: people may have taken our marks off.
func (r *reconciler) isHeld(ctx context.Context, address ipam.Address) (bool, error) {
	claim := ipam.EmptyClaim(r.provider)
	err := r.live.Get(ctx, types.NamespacedName{Namespace: address.GetNamespace(), Name: address.Claim}, claim)
	if err != nil && !kube.IsAbsent(err) {
		return false, fmt.Errorf("reading claim %s: %w", address.Claim, err)
	}
	if err == nil && claim.GetDeletionTimestamp().IsZero() {
		return true, nil
	}
	place := capi.Place{IP: capi.ParseAddress(address.IP)}
	if !place.IP.IsValid() {
		return false, nil
	}
	users, err := allocator.Search{Cache: r.client, Live: r.live}.Users(ctx, types.NamespacedName{}, place)
	return slices.ContainsFunc(users, func(user allocator.User) bool { return user.Namespace == address.GetNamespace() }), err
}

func (r *reconciler) letGo(ctx context.Context, address ipam.Address) error {
	before := address.DeepCopyObject().(client.Object)
	controllerutil.RemoveFinalizer(address.Object, ipam.InUseFinalizer)
	if err := kube.PatchAsRead(ctx, r.client, address.Object, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("taking our finalizer off address %s: %w", klog.KObj(address), err)
	}
	klog.FromContext(ctx).Info("Let go of an address that its provider has given our finalizer back", "address", klog.KObj(address), "ip", address.IP)
	return nil
}
