package ipam

import "sigs.k8s.io/controller-runtime/pkg/client"

// RequestedBy is the value of RequestedByAnnotation.
func RequestedBy(owner Owner) string {
	if owner.UID == "" {
		return "none"
	}
	return string(owner.UID) + "." + shortHash(owner.User)
}

// IsKeptFor tells whether a claim was kept for the next machine of an owner, see
// KeptAnnotation.
func IsKeptFor(claim client.Object, owner Owner) bool {
	annotations := claim.GetAnnotations()
	_, kept := annotations[KeptAnnotation]
	return kept && owner.UID != "" && annotations[RequestedByAnnotation] == RequestedBy(owner)
}
