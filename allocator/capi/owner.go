package capi

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// OwnerMachine is the owner reference to a VSphereMachine, empty if there is none.
func OwnerMachine(obj client.Object) metav1.OwnerReference {
	for _, owner := range obj.GetOwnerReferences() {
		if owner.Kind == VSphereMachineKind.Kind {
			return owner
		}
	}
	return metav1.OwnerReference{}
}

// DeploymentOf is the owner reference of a MachineSet to its MachineDeployment, if
// it has one.
func DeploymentOf(set client.Object) (metav1.OwnerReference, bool) {
	for _, owner := range set.GetOwnerReferences() {
		if schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind() == MachineDeploymentKind {
			return owner, true
		}
	}
	return metav1.OwnerReference{}, false
}

// Own puts a machine among the owners of a claim. It does not block the deletion of the
// machine in the foreground: the garbage collector would hold it until the claim is
// gone, which may be long after its VM, and until its provider can be written to.
//
// The static IP adapter wrote the machine there in a version of its API that is not
// served any more, in which the garbage collector cannot find it, and not as the
// controller. What has other owners is left to these.
func Own(claim client.Object, scheme *runtime.Scheme, name string, uid types.UID) {
	isController := true
	machine := metav1.OwnerReference{
		APIVersion: InScheme(scheme, VSphereMachineKind).GroupVersion().String(), Kind: VSphereMachineKind.Kind,
		Name: name, UID: uid, Controller: &isController,
	}
	owners := claim.GetOwnerReferences()
	others := Others(owners, uid)
	if len(others) == len(owners) && len(owners) > 0 {
		return
	}
	if slices.ContainsFunc(others, func(owner metav1.OwnerReference) bool { return owner.Controller != nil && *owner.Controller }) {
		machine.Controller = nil
	}
	claim.SetOwnerReferences(append(others, machine))
}

// Others are the owners that are not the one with this UID.
func Others(owners []metav1.OwnerReference, uid types.UID) []metav1.OwnerReference {
	return slices.DeleteFunc(slices.Clone(owners), func(owner metav1.OwnerReference) bool { return owner.UID == uid })
}
