package allocator

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func (a *Allocator) claimOfAddress(address client.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: address.GetNamespace(), Name: a.provider.Address(address).Claim}
}

// wakeOn is an informer's handler that wakes the requests waiting for the claim
// that an object is about.
func (a *Allocator) wakeOn(claimOf func(client.Object) types.NamespacedName) cache.ResourceEventHandler {
	wake := func(event any) {
		if gone, ok := event.(cache.DeletedFinalStateUnknown); ok {
			event = gone.Obj
		}
		if obj, ok := event.(client.Object); ok {
			a.wakeups.notify(claimOf(obj))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    wake,
		UpdateFunc: func(_, obj any) { wake(obj) },
		DeleteFunc: wake,
	}
}

// await waits until the provider has bound the claim. Every change of the claim
// or of an address that answers it wakes it; it never polls.
func (a *Allocator) await(ctx context.Context, pool Pool, claim Claim) (Address, error) {
	key := client.ObjectKeyFromObject(claim)
	woken, done := a.wakeups.subscribe(key)
	defer done()
	for {
		address, err := a.answer(ctx, pool, claim)
		if err != nil || address.Object != nil {
			return address, err
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return Address{}, Refuse(NotBoundInTime, "%s %q in namespace %q has not bound a claim in time: "+
				"is the IPAM controller of %s running? Start it, or see its log",
				pool.Reference.Kind, pool.Reference.Name, pool.GetNamespace(), pool.Reference.APIGroup)
		}
		claim, err = a.refresh(ctx, claim)
		if err != nil {
			return Address{}, err
		}
	}
}

// refresh reads the claim from the cache. A cache that has not seen this very
// claim yet says nothing new.
func (a *Allocator) refresh(ctx context.Context, claim Claim) (Claim, error) {
	_, obj, _ := a.provider.Kinds()
	err := a.client.Get(ctx, client.ObjectKeyFromObject(claim), obj)
	switch {
	case apierrors.IsNotFound(err):
		return claim, nil
	case err != nil:
		return claim, fmt.Errorf("reading claim %s: %w", klog.KObj(claim), err)
	case obj.GetUID() != claim.GetUID():
		return claim, nil
	}
	return a.provider.Claim(obj), nil
}

// answer is the address that answers the claim, without an object if there is
// none yet.
func (a *Allocator) answer(ctx context.Context, pool Pool, claim Claim) (Address, error) {
	want := Want{Pool: pool.Reference}
	key := client.ObjectKeyFromObject(claim)
	switch {
	case !claim.GetDeletionTimestamp().IsZero():
		return Address{}, terminating(want, key)
	case claim.Exhausted:
		return Address{}, exhausted(pool, 0, 1)
	case claim.Failure != "":
		return Address{}, Refuse(ClaimRefused, "%s %q in namespace %q refused a claim: %s; correct the pool",
			pool.Reference.Kind, pool.Reference.Name, pool.GetNamespace(), claim.Failure)
	case claim.Address == "":
		return Address{}, nil
	}

	_, _, obj := a.provider.Kinds()
	err := a.client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: claim.Address}, obj)
	switch {
	case apierrors.IsNotFound(err):
		return Address{}, nil
	case err != nil:
		return Address{}, fmt.Errorf("reading address %s/%s: %w", key.Namespace, claim.Address, err)
	case !obj.GetDeletionTimestamp().IsZero():
		return Address{}, terminating(want, key)
	case !Answers(obj, claim.GetUID()):
		return Address{}, nil
	}
	return a.provider.Address(obj), nil
}

// Answers tells whether an address was made for the claim with this UID: a
// provider makes the claim an owner of its address.
func Answers(address metav1.Object, claim types.UID) bool {
	for _, owner := range address.GetOwnerReferences() {
		if owner.UID == claim {
			return true
		}
	}
	return false
}
