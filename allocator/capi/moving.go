package capi

import (
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// IsMoving tells whether clusterctl deletes the object here because it lives on in
// another management cluster.
func IsMoving(obj client.Object) bool {
	_, moving := obj.GetAnnotations()[clusterctlv1.DeleteForMoveAnnotation]
	return moving
}
