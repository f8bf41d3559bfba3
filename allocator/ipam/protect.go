package ipam

import (
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/kube"
)

// IsProtected tells whether our finalizer is on an address, or on a claim.
func IsProtected(obj client.Object) bool {
	return controllerutil.ContainsFinalizer(obj, InUseFinalizer)
}

// Protect puts our finalizer on an address, and writes on it which machine has it. The
// API server takes no new finalizer on what is being deleted.
func Protect(address client.Object, machine string) {
	if address.GetDeletionTimestamp().IsZero() {
		controllerutil.AddFinalizer(address, InUseFinalizer)
	}
	annotations := address.GetAnnotations()
	delete(annotations, MovedAnnotation)
	delete(annotations, ReleasedAtAnnotation)
	address.SetAnnotations(annotations)
	kube.SetAnnotation(address, MachineNameAnnotation, machine)
}

// ProtectFor is Protect for whoever holds the address. An endpoint may be on any network,
// and is compared with what is on each.
func ProtectFor(address client.Object, holder Holder) {
	Protect(address, holder.Name)
	if holder.Kind == OfMachine {
		return
	}
	annotations := address.GetAnnotations()
	delete(annotations, MachineNameAnnotation)
	address.SetAnnotations(annotations)
	kube.SetAnnotation(address, holder.annotation(), holder.Name)
	kube.SetAnnotation(address, NetworkAnnotation, "")
}

// Unprotect takes our finalizer off an address, and all that was written on it of its
// machine. The label that it has of its claim stays.
func Unprotect(address client.Object) {
	controllerutil.RemoveFinalizer(address, InUseFinalizer)
	HandOver(address)
	annotations := address.GetAnnotations()
	for _, key := range []string{MachineNameAnnotation, ClusterNameAnnotation, MachineUIDAnnotation, NetworkAnnotation, MovedAnnotation, ReleasedAtAnnotation} {
		delete(annotations, key)
	}
	address.SetAnnotations(annotations)
}
