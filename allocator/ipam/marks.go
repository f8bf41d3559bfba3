package ipam

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
)

const (
	// ReleaseFinalizer keeps a machine until its addresses are given back.
	ReleaseFinalizer = "capv-static-ip.dev/release"
	// InUseFinalizer keeps an address object, and so the address, while its
	// machine or that machine's VM exists, whatever happens to the claim. It is
	// on the claim, too, where the provider honours it: clusterctl deletes a
	// claim before it takes the finalizers off, and in between the provider must
	// not free an address that a machine elsewhere goes on using.
	InUseFinalizer = "capv-static-ip.dev/in-use"

	// BindingsAnnotation holds a machine's bindings as JSON, see Bindings.
	BindingsAnnotation = "capv-static-ip.dev/bindings"
	// MachineLabel marks a claim as ours. Its value is a hash of the machine's
	// name, because label values end at 63 characters.
	MachineLabel = "capv-static-ip.dev/machine"
	// MachineNameAnnotation holds, on a claim and on an address, the full name
	// of the machine.
	MachineNameAnnotation = "capv-static-ip.dev/machine-name"
	// MachineUIDAnnotation holds, on a protected address, the UID of the
	// machine, so that its VM can be found when the machine is gone.
	MachineUIDAnnotation = "capv-static-ip.dev/machine-uid"
	// NetworkAnnotation holds, on a protected address, the name of the network that
	// its device is on, where the device says.
	NetworkAnnotation = "capv-static-ip.dev/network"
	// LastUsedAnnotation is the stamp on a claim: the time of its last use
	// (RFC 3339, to the nanosecond) and the UID of the admission request,
	// separated by a space.
	LastUsedAnnotation = "capv-static-ip.dev/last-used"
	// RequestedByAnnotation holds, on a claim, the UID of the owner of the machine
	// that it was made for and a hash of the user's name, or "none". It is there from the claim's first moment
	// until the machine adopts it: without it, a claim had a machine once.
	RequestedByAnnotation = "capv-static-ip.dev/requested-by"
	// ForAnnotation on somebody's own claim names the machine that may take it over.
	ForAnnotation = "capv-static-ip.dev/for"
	// TakenOverAnnotation is on such a claim when that has happened: what was on it
	// before, see NoteTakenOver.
	TakenOverAnnotation = "capv-static-ip.dev/taken-over"
	// DeviceAnnotation holds, on a claim, the Slot that it is for.
	DeviceAnnotation = "capv-static-ip.dev/device"
	// KeptAnnotation is on a claim that was not bound while its request had time.
	// It is left for the next machine of the same owner, see RequestedByAnnotation.
	KeptAnnotation = "capv-static-ip.dev/kept"
	// SetAsideLabel is on a claim that keeps an address from being handed out which
	// no machine can be given.
	SetAsideLabel = "capv-static-ip.dev/set-aside"
	// SetAsideAnnotation holds, on such a claim, what is known of that, see SetAside.
	SetAsideAnnotation = "capv-static-ip.dev/set-aside"
	// MovedAnnotation is on an address whose machine was moved to another
	// management cluster without it: there the address is in use.
	MovedAnnotation = "capv-static-ip.dev/moved"
	// GivenUpAnnotation is on a claim of a stored machine that is about to be deleted, and
	// that the machine must not be bound to any more; and on the machine, with the try.
	GivenUpAnnotation = "capv-static-ip.dev/given-up"
	// RecreatedAnnotation is on a claim that was recreated together with its
	// address, until the pool has been searched for another claim on it.
	RecreatedAnnotation = "capv-static-ip.dev/recreated"

	// PoolsAnnotationPrefix and the index or the deviceName of a device make the
	// annotation, on a machine or on its template, that names the device's pools.
	PoolsAnnotationPrefix = "pools.capv-static-ip.dev/"
	// GatewayAnnotationPrefix and a device, likewise, make the annotation that, with the
	// value NoGateway, keeps the pool's gateway from the device.
	GatewayAnnotationPrefix = "gateway.capv-static-ip.dev/"
	// SearchDomainsAnnotation on a pool holds DNS search domains, separated by
	// commas; it is the static IP adapter's name for them.
	SearchDomainsAnnotation = "cluster.x-k8s.io/dns-search-domains"
	// NameserversAnnotation on a pool of the CAPI IPAM contract holds the
	// addresses of DNS servers, separated by commas; the contract has no place
	// for them.
	NameserversAnnotation = "capv-static-ip.dev/nameservers"
	// RefusedByAnnotation says, on an owner of machines that were refused, which
	// pools did not have what they asked for, or why else, see retry.Shortages. Taking it off
	// makes CAPI try again at once.
	RefusedByAnnotation = "capv-static-ip.dev/refused-by"
	// TriedAgainAnnotation takes its place, with the time, until it shows whether that
	// has helped.
	TriedAgainAnnotation = "capv-static-ip.dev/tried-again"
	// AddressesAvailableCondition says in words why an owner was refused. It is False on
	// an owner that has one of these two annotations, and on no other.
	AddressesAvailableCondition = "capv-static-ip.dev/AddressesAvailable"
)

// MachineLabelValue is the value of MachineLabel for a machine of this name.
func MachineLabelValue(machine string) string {
	return shortHash(machine)
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// MachineOf is the name of the machine that a claim or address says it belongs
// to, empty if it says nothing.
func MachineOf(obj client.Object) string {
	return obj.GetAnnotations()[MachineNameAnnotation]
}

// Mark makes a claim the machine's by name. The cluster's label is what pausing
// and moving a cluster goes by; a claim that clusterctl did not move from its
// first moment would stop a move half way. The watch filter is the machine's, so
// that the provider of its Cluster looks at the claim.
func Mark(claim client.Object, machine Machine) {
	kube.SetLabel(claim, MachineLabel, machine.Holder().label())
	kube.SetLabel(claim, clusterctlv1.ClusterctlMoveLabel, "")
	if machine.WatchFilter != "" {
		kube.SetLabel(claim, clusterv1.WatchLabel, machine.WatchFilter)
	}
	if machine.Cluster != "" {
		kube.SetLabel(claim, clusterv1.ClusterNameLabel, machine.Cluster)
	}
	kube.SetAnnotation(claim, machine.Holder().annotation(), machine.Name)
}

// Use stamps a claim.
func Use(claim client.Object, stamp Stamp) {
	kube.SetAnnotation(claim, LastUsedAnnotation, stamp.String())
}

// IsMarked tells whether a claim carries our mark for the machine of this name.
func IsMarked(claim client.Object, machine string) bool {
	return MachineOf(claim) == machine && claim.GetLabels()[MachineLabel] == MachineLabelValue(machine)
}

// IsGivenUp tells whether a claim of a stored machine is not to be used any more.
func IsGivenUp(claim client.Object) bool {
	_, ok := claim.GetAnnotations()[GivenUpAnnotation]
	return ok
}

// IsRecreated tells whether a claim was recreated, and it has not been seen yet
// that nobody else has its address.
func IsRecreated(claim client.Object) bool {
	_, ok := claim.GetAnnotations()[RecreatedAnnotation]
	return ok
}

// Stamp says when a claim was last used for an admission, and by which request.
type Stamp struct {
	Time    time.Time
	Request types.UID
}

// Again is the stamp on a claim that the request found: it is not the request's
// to take back. Another request may have been answered with it already, whose
// machine is not stored yet.
func (s Stamp) Again() Stamp {
	s.Request += " again"
	return s
}

// String is the form in which LastUsedAnnotation holds the stamp.
func (s Stamp) String() string {
	return s.Time.UTC().Format(time.RFC3339Nano) + " " + string(s.Request)
}

// StampOf reads the stamp of a claim. It fails on a claim that has none, or
// one that does not parse.
func StampOf(claim client.Object) (Stamp, error) {
	value := claim.GetAnnotations()[LastUsedAnnotation]
	at, request, _ := strings.Cut(value, " ")
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return Stamp{}, fmt.Errorf("reading annotation %s: %w", LastUsedAnnotation, err)
	}
	return Stamp{Time: t, Request: types.UID(request)}, nil
}

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

// UnadoptedBy is what RequestedByAnnotation says on a claim that no machine has adopted yet,
// empty for all others. What names no machine was not made here, whatever is written on it.
func UnadoptedBy(claim client.Object) string {
	if !claim.GetDeletionTimestamp().IsZero() || len(claim.GetOwnerReferences()) > 0 || HolderOf(claim).Name == "" {
		return ""
	}
	return claim.GetAnnotations()[RequestedByAnnotation]
}

// IsKeptFor tells whether a claim was kept for the next machine of an owner, see
// KeptAnnotation.
func IsKeptFor(claim client.Object, owner Owner) bool {
	annotations := claim.GetAnnotations()
	_, kept := annotations[KeptAnnotation]
	return kept && owner.UID != "" && annotations[RequestedByAnnotation] == RequestedBy(owner)
}
