package ipam

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

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
