package allocator

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// recheckInterval is how often a pool is asked whether it still has room for a claim
// that waits.
const recheckInterval = time.Second

// await waits until the provider has bound the claim, and accepts the address.
// Every change of the claim or of an address that answers it wakes it; it does
// not poll for them. A pool that says that it is full wakes it too, but not
// reliably: a provider need not write down that an address was free for a moment,
// and of kinds that are not watched nothing is heard. So a pool that counts is
// asked again in between.
func (a *Allocator) await(ctx context.Context, al *allocation, claim ipam.Claim) (ipam.Binding, error) {
	woken, done := a.bound.subscribe(client.ObjectKeyFromObject(claim))
	defer done()
	full, done := a.full.subscribe(client.ObjectKeyFromObject(al.pool))
	defer done()
	recheck := time.NewTicker(recheckInterval)
	defer recheck.Stop()
	// What it said before the subscription is not heard again.
	if a.isFull(ctx, al) {
		if err := a.checkRoom(ctx, al, claim, a.live); err != nil {
			return ipam.Binding{}, err
		}
	}
	// accepted is the UID of the address that was accepted before the claim named it.
	var accepted types.UID
	var binding ipam.Binding
	for {
		address, err := a.answer(ctx, al, claim)
		switch {
		case err != nil:
			return ipam.Binding{}, err
		case address.Object == nil && accepted == "":
			accepted, binding = a.acceptEarly(ctx, al, claim)
		case address.Object == nil:
			// Accepted early: the claim does not name the address yet.
		case address.GetUID() == accepted:
			return binding, nil
		default:
			// Nothing was accepted early, or another address: the claim's word counts.
			return a.accept(ctx, al, address)
		}
		select {
		case <-woken:
		case <-full:
			err = a.checkRoom(ctx, al, claim, a.live)
		case <-recheck.C:
			err = a.checkRoom(ctx, al, claim, a.client, a.live)
		case <-ctx.Done():
			err = a.notBound(context.WithoutCancel(ctx), al, claim)
		}
		if err != nil {
			return ipam.Binding{}, err
		}
		claim, err = a.refresh(ctx, al, claim)
		if err != nil {
			return ipam.Binding{}, err
		}
	}
}

// notBound says why a claim was not bound in time, as far as that can be seen. The
// address that it names may be one that an earlier claim of the name left behind,
// which metal3 takes for its own.
func (a *Allocator) notBound(ctx context.Context, al *allocation, claim ipam.Claim) error {
	if claim.Address != "" {
		return a.notAnswered(ctx, al, claim)
	}
	cause := al.provider.WhyNotBound(ctx, a.client, al.pool, claim)
	if cause == "" {
		return notBoundInTime(al)
	}
	return ipam.Refuse(ipam.NotBoundInTime, "%s has not bound a claim in time: %s", al.poolName(), cause)
}

// notAnswered says why the address that a claim names does not answer it.
func (a *Allocator) notAnswered(ctx context.Context, al *allocation, claim ipam.Claim) error {
	obj := ipam.EmptyAddress(al.provider)
	err := a.live.Get(ctx, client.ObjectKey{Namespace: claim.GetNamespace(), Name: claim.Address}, obj)
	if apierrors.IsNotFound(err) {
		return a.deleteUnanswerable(ctx, al, claim)
	}
	if err != nil || ipam.Answers(obj, claim.GetUID()) {
		return notBoundInTime(al)
	}
	return ipam.Refuse(ipam.AddressLeft, "address %q in namespace %q, which is of an earlier claim %q, is in the way: "+
		"delete it if nothing uses %s any more, or give the %s another name",
		obj.GetName(), obj.GetNamespace(), claim.GetName(), al.provider.ReadAddress(obj).IP, al.Machine.Noun())
}

// deleteUnanswerable deletes a claim that names an address which does not exist: its provider,
// whose cache was behind, has given it what an earlier claim of the name had, and does not look at
// it again. Whoever has used the claim meanwhile has changed it, and keeps it.
func (a *Allocator) deleteUnanswerable(ctx context.Context, al *allocation, claim ipam.Claim) error {
	err := kube.DeleteAsRead(ctx, a.client, claim.Object)
	if err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting claim %s, which names an address that does not exist: %w", klog.KObj(claim), err)
	}
	klog.FromContext(ctx).Info("Deleted a claim that names an address which does not exist", "claim", klog.KObj(claim), "address", claim.Address)
	return notBoundInTime(al)
}

func notBoundInTime(al *allocation) error {
	return ipam.Refuse(ipam.NotBoundInTime, "%s has not bound a claim in time: "+
		"is the IPAM controller of %s running? Start it, or see its log",
		al.poolName(), al.want.Pool.APIGroup)
}

// isFull tells whether the pool now says that it has no free address.
func (a *Allocator) isFull(ctx context.Context, al *allocation) bool {
	if !al.pool.Watched {
		return false
	}
	fresh := al.pool.DeepCopyObject().(client.Object)
	err := a.client.Get(ctx, client.ObjectKeyFromObject(al.pool), fresh)
	return err == nil && al.provider.IsFull(fresh)
}

// checkRoom refuses a claim that waits while others have taken the last addresses
// of its pool, if none of these readers, asked in turn, knows of room. A pool's
// own word that it is full does not do: it may be late, and one of the addresses
// that fill the pool may be for this claim.
func (a *Allocator) checkRoom(ctx context.Context, al *allocation, claim ipam.Claim, readers ...client.Reader) error {
	if !al.pool.Silent {
		return nil
	}
	var refusal error
	for _, reader := range readers {
		fresh, err := al.provider.Pool(ctx, reader, al.Machine, al.want)
		if _, refused := ipam.AsRefusal(err); refused {
			// Its provider may bind a claim that exists, whatever the pool looks like by now.
			return nil
		}
		if err != nil || fresh.Free == nil {
			return err
		}
		free, needed := fresh.Free([]string{claim.GetName()})
		if free >= needed {
			return nil
		}
		refusal = exhausted(fresh, free, needed)
	}
	return refusal
}

// refresh reads the claim from the cache. A cache that has not seen this very
// claim yet says nothing new.
func (a *Allocator) refresh(ctx context.Context, al *allocation, claim ipam.Claim) (ipam.Claim, error) {
	obj := ipam.EmptyClaim(al.provider)
	err := a.client.Get(ctx, client.ObjectKeyFromObject(claim), obj)
	switch {
	case apierrors.IsNotFound(err):
		return claim, nil
	case err != nil:
		return claim, fmt.Errorf("reading claim %s: %w", klog.KObj(claim), err)
	case obj.GetUID() != claim.GetUID():
		return claim, nil
	}
	return al.provider.ReadClaim(obj), nil
}

// answer is the address that answers the claim, without an object if there is
// none yet.
func (a *Allocator) answer(ctx context.Context, al *allocation, claim ipam.Claim) (ipam.Address, error) {
	switch {
	case !claim.GetDeletionTimestamp().IsZero():
		return ipam.Address{}, terminating(al)
	case claim.Failure != "" && al.want.IP.IsValid():
		return ipam.Address{}, addressTaken(al.poolName(), al.want)
	case claim.Exhausted:
		return ipam.Address{}, exhausted(al.pool, 0, 1)
	case claim.Failure != "":
		return ipam.Address{}, claimRefused(al, claim)
	case claim.Address == "":
		return ipam.Address{}, a.checkNoneLeft(ctx, al)
	}

	key := client.ObjectKey{Namespace: claim.GetNamespace(), Name: claim.Address}
	obj := ipam.EmptyAddress(al.provider)
	err := a.client.Get(ctx, key, obj)
	switch {
	case apierrors.IsNotFound(err):
		// The cache of addresses is behind that of claims, and wakes the request.
		return ipam.Address{}, nil
	case err != nil:
		return ipam.Address{}, fmt.Errorf("reading address %s: %w", key, err)
	case ipam.IsReleased(obj):
		return ipam.Address{}, a.coolingDown(al, claim.GetName(), claim.Pool)
	case !obj.GetDeletionTimestamp().IsZero():
		return ipam.Address{}, terminating(al)
	case !ipam.Answers(obj, claim.GetUID()) && !inherits(al.provider, obj, claim):
		return ipam.Address{}, nil
	}
	return al.provider.ReadAddress(obj), nil
}

func claimRefused(al *allocation, claim ipam.Claim) error {
	return ipam.Refuse(ipam.ClaimRefused, "%s refused a claim: %s; correct the pool", al.poolName(), claim.Failure)
}

// inherits tells whether a claim has been given the address that an earlier claim
// of the machine left: one that was deleted in the moment in which it was bound.
// The provider goes by the claim's name, and gives it no other as long as that one
// is there. A UID on the address says that it was an earlier machine's, and one
// whose machine moved away is in use elsewhere.
func inherits(provider ipam.Provider, obj client.Object, claim ipam.Claim) bool {
	annotations := obj.GetAnnotations()
	holder, isLabelled := annotations[ipam.MachineNameAnnotation], obj.GetLabels()[ipam.MachineLabel] == claim.GetLabels()[ipam.MachineLabel]
	_, moved := annotations[ipam.MovedAnnotation]
	return provider.Traits().BindsByName && provider.ReadAddress(obj).Claim == claim.GetName() && !moved && isLabelled &&
		annotations[ipam.MachineUIDAnnotation] == "" && (holder == "" || ipam.IsMarked(claim, holder))
}

// checkNoneLeft refuses a claim that an address is in the way of: one of an earlier
// claim of the name, which is being deleted while a VM still uses it. Providers
// that name an address after its claim cannot make another until it is gone.
func (a *Allocator) checkNoneLeft(ctx context.Context, al *allocation) error {
	key := al.claimKey()
	obj := ipam.EmptyAddress(al.provider)
	if err := a.client.Get(ctx, key, obj); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("reading address %s: %w", key, err)
	}
	address := al.provider.ReadAddress(obj)
	switch {
	case address.Claim != key.Name || obj.GetDeletionTimestamp().IsZero():
		return nil
	case ipam.IsReleased(obj):
		return a.coolingDown(al, address.Claim, address.Pool)
	}
	return terminating(al)
}
