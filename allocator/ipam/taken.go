package ipam

import (
	"iter"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
)

// Taking is how addresses of a pool are taken without its provider: by making the address
// object that it would make, under the name that it would give it. There can be one object
// of a name, so that whoever makes it has the address. The claim is made afterwards, when
// the machine is stored; the provider binds it, by its name, to the address that is there.
type Taking struct {
	// Addresses are those that are free for a claim as far as is known, each once, in the
	// order in which they are to be tried. It depends on the claim, so that requests for
	// different machines do not meet, and those for one machine do.
	Addresses func(claim types.NamespacedName) iter.Seq[netip.Addr]
	// Object is the address object as the provider would make it for a claim, unmarked and
	// not stored, and without the claim as its owner: there is none yet.
	Object func(claim string, ip netip.Addr) client.Object
}

// takenMarks are the annotations that a taken address bears in place of a claim.
var takenMarks = []string{RequestedByAnnotation, LastUsedAnnotation, DeviceAnnotation, FailureDomainsAnnotation}

// TakenFor is on whose behalf a protected address was taken whose claim has not been made
// yet, in the form of RequestedBy. It is empty for all others.
func TakenFor(address client.Object) string {
	if !IsProtected(address) || !address.GetDeletionTimestamp().IsZero() || IsReleased(address) || HolderOf(address).Name == "" {
		return ""
	}
	return address.GetAnnotations()[RequestedByAnnotation]
}

// IsTaken tells whether an address was taken, and its claim has not been made yet.
func IsTaken(address client.Object) bool { return TakenFor(address) != "" }

// HandOver takes the marks off an address that was taken: from now on they are its claim's.
func HandOver(address client.Object) {
	annotations := address.GetAnnotations()
	for _, key := range takenMarks {
		delete(annotations, key)
	}
	address.SetAnnotations(annotations)
}

// Inherit puts the marks of an address that was taken on the claim which is made for it,
// but those that say that nobody has adopted it.
func Inherit(claim, address client.Object) {
	for _, key := range []string{DeviceAnnotation, FailureDomainsAnnotation} {
		if value, ok := address.GetAnnotations()[key]; ok {
			kube.SetAnnotation(claim, key, value)
		}
	}
}
