package ipam

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// Answers tells whether an address was made for the claim with this UID: a
// provider makes the claim an owner of its address.
func Answers(address metav1.Object, claim types.UID) bool {
	return slices.ContainsFunc(address.GetOwnerReferences(), func(owner metav1.OwnerReference) bool { return owner.UID == claim })
}

// Own makes a claim an owner of its address, as its provider does.
func Own(address, claim client.Object, scheme *runtime.Scheme) error {
	if Answers(address, claim.GetUID()) {
		return nil
	}
	kind, err := apiutil.GVKForObject(claim, scheme)
	if err != nil {
		return fmt.Errorf("finding the kind of claim %s: %w", klog.KObj(claim), err)
	}
	address.SetOwnerReferences(append(address.GetOwnerReferences(), metav1.OwnerReference{
		APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: claim.GetName(), UID: claim.GetUID(),
	}))
	return nil
}

// CorrectOwner has an address be owned by the claim that is bound to it, if there is one, and
// by no earlier one of that name. A claim that was recreated, or restored from a backup, is bound
// by metal3 to the address that it finds, which is left as it is (ipam/ippool_manager.go,
// createAddress); and clusterctl passes over an address that has an owner which does not exist.
func CorrectOwner(address *Address, claim *Claim, scheme *runtime.Scheme) error {
	address.SetOwnerReferences(slices.DeleteFunc(address.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
		return owner.Name == address.Claim && (claim == nil || owner.UID != claim.GetUID())
	}))
	if claim == nil || claim.Address != address.GetName() {
		return nil
	}
	return Own(address.Object, claim.Object, scheme)
}
