package ipam

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"capv-static-ip.dev/allocator/kube"
)

// Answers tells whether an address is that of the claim with this UID: a provider makes the
// claim an owner of its address, and Owners where that was lost.
func Answers(address metav1.Object, claim types.UID) bool {
	return slices.ContainsFunc(address.GetOwnerReferences(), func(owner metav1.OwnerReference) bool { return owner.UID == claim })
}

// Own makes an object an owner of an address, as its provider does.
func Own(address, owner client.Object, scheme *runtime.Scheme) error {
	if Answers(address, owner.GetUID()) {
		return nil
	}
	kind, err := apiutil.GVKForObject(owner, scheme)
	if err != nil {
		return fmt.Errorf("finding the kind of %s, which is to own an address: %w", klog.KObj(owner), err)
	}
	address.SetOwnerReferences(append(address.GetOwnerReferences(), metav1.OwnerReference{
		APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: owner.GetName(), UID: owner.GetUID(),
	}))
	return nil
}

// DropFormerOwners takes earlier claims of the name off an address: clusterctl passes over one
// that has an owner which does not exist.
func DropFormerOwners(address *Address, claim *Claim) {
	address.SetOwnerReferences(slices.DeleteFunc(address.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
		// The claim of an endpoint has the name of its cluster, as its pool may.
		return owner.Name == address.Claim && owner.Kind != address.Pool.Kind && (claim == nil || owner.UID != claim.GetUID())
	}))
}

// Owners has addresses be owned by what their providers make their owners.
type Owners struct {
	Client    client.Client
	Providers Providers
	// Cached and Live read pools.
	Cached, Live client.Reader
}

// Restore has an address be owned by the claim that is bound to it, and by their pool. A claim
// that was recreated, or restored from a backup, is bound by metal3 to the address that it finds,
// which is left as it is (ipam/ippool_manager.go, createAddress).
func (o Owners) Restore(ctx context.Context, address *Address, claim *Claim) error {
	if !claim.has(*address) || Answers(address, claim.GetUID()) {
		return nil
	}
	before := address.DeepCopyObject().(client.Object)
	pool, err := o.Providers.For(address.Pool).Read(ctx, o.Cached, o.Live, address.GetNamespace(), address.Pool)
	if err != nil {
		return err
	}
	// Without the pool, clusterctl would take the address away from one that stays.
	for _, owner := range []client.Object{pool, claim.Object} {
		if owner == nil {
			continue
		}
		if err := Own(address.Object, owner, o.Client.Scheme()); err != nil {
			return err
		}
	}
	if err := kube.PatchAsRead(ctx, o.Client, address.Object, before); err != nil {
		return fmt.Errorf("giving address %s its owners: %w", klog.KObj(address), err)
	}
	return nil
}

// has tells whether the claim is bound to an address that was made for it.
func (c Claim) has(a Address) bool {
	return c.Address == a.GetName() && a.Claim == c.GetName() && a.Pool == c.Pool
}
