package capi

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
