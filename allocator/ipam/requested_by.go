package ipam

import (
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// RequestedBy is the value of RequestedByAnnotation.
func RequestedBy(owner Owner) string {
	if owner.UID == "" {
		return "none"
	}
	return string(owner.UID) + "." + shortHash(owner.User)
}

// RequesterOf is the UID of the owner of the machine that a claim was made for,
// empty if that machine had none, or has adopted the claim.
func RequesterOf(claim client.Object) types.UID {
	uid, _, _ := strings.Cut(claim.GetAnnotations()[RequestedByAnnotation], ".")
	if uid == RequestedBy(Owner{}) {
		return ""
	}
	return types.UID(uid)
}

// IsKeptFor tells whether a claim was kept for the next machine of an owner, see
// KeptAnnotation.
func IsKeptFor(claim client.Object, owner Owner) bool {
	annotations := claim.GetAnnotations()
	_, kept := annotations[KeptAnnotation]
	return kept && owner.UID != "" && annotations[RequestedByAnnotation] == RequestedBy(owner)
}
