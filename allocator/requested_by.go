package allocator

import "sigs.k8s.io/controller-runtime/pkg/client"

// requestedBy is the value of RequestedByAnnotation.
func requestedBy(owner Owner) string {
	if owner.UID == "" {
		return "none"
	}
	return string(owner.UID) + "." + shortHash(owner.User)
}

func isKeptFor(claim client.Object, owner Owner) bool {
	annotations := claim.GetAnnotations()
	_, kept := annotations[KeptAnnotation]
	return kept && owner.UID != "" && annotations[RequestedByAnnotation] == requestedBy(owner)
}
