package ipam

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// HolderKind is the kind of what an address is claimed for.
type HolderKind string

const (
	// OfMachine is a VSphereMachine, for one of its devices.
	OfMachine HolderKind = ""
	// OfCluster is a VSphereCluster, for the endpoint of its control plane.
	OfCluster HolderKind = "VSphereCluster"
)

// ClusterNameAnnotation holds, on a claim and on an address of an endpoint, the name of
// the VSphereCluster, in place of MachineNameAnnotation.
const ClusterNameAnnotation = "capv-static-ip.dev/vspherecluster-name"

// EndpointDevice takes the place of a device in the annotation, on a VSphereCluster or on
// its Cluster, that names the pools of the endpoint, see PoolsAnnotationPrefix.
const EndpointDevice = "control-plane-endpoint"

// Holder is whom a claim or an address belongs to.
type Holder struct {
	Kind HolderKind
	Name string
}

// HolderOf is whom a claim or an address says it belongs to, without a name if it says
// nothing.
func HolderOf(obj client.Object) Holder {
	if name := obj.GetAnnotations()[ClusterNameAnnotation]; name != "" {
		return Holder{Kind: OfCluster, Name: name}
	}
	return Holder{Name: MachineOf(obj)}
}

// Holder is the machine, or the VSphereCluster, without its namespace.
func (m Machine) Holder() Holder { return Holder{Kind: m.Kind, Name: m.Name} }

// Noun is what a sentence calls it.
func (m Machine) Noun() string {
	if m.Kind == OfMachine {
		return "machine"
	}
	return string(m.Kind)
}

// label is the value of MachineLabel. No machine has a name with a slash.
func (h Holder) label() string {
	if h.Kind == OfMachine {
		return MachineLabelValue(h.Name)
	}
	return shortHash(string(h.Kind) + "/" + h.Name)
}

// namesake is the name of the Cluster that a holder without one is said to be of.
func (h Holder) namesake() string {
	if len(validation.IsValidLabelValue(h.Name)) > 0 {
		return h.label()
	}
	return h.Name
}

// annotation is that of the holder's name.
func (h Holder) annotation() string {
	if h.Kind == OfCluster {
		return ClusterNameAnnotation
	}
	return MachineNameAnnotation
}

// Marks tells whether a claim carries our mark for the holder.
func (h Holder) Marks(claim client.Object) bool {
	return HolderOf(claim) == h && claim.GetLabels()[MachineLabel] == h.label()
}

// IsLabelled tells whether an object has the label of the holder: an address has it of
// its claim, with some providers, before it is marked.
func (h Holder) IsLabelled(obj client.Object) bool {
	return obj.GetLabels()[MachineLabel] == h.label()
}

// ClaimName is the name of the claim of the n-th try. For an endpoint it is that of the
// VSphereCluster, as the static IP adapter for CAPV named it, for a machine see
// ClaimNameOfTry.
func (h Holder) ClaimName(slot Slot, try int) string {
	if h.Kind == OfMachine {
		return ClaimNameOfTry(h.Name, slot, try)
	}
	if try == 1 {
		return h.Name
	}
	suffix := ".r" + strconv.Itoa(try)
	if len(h.Name)+len(suffix) <= validation.DNS1123SubdomainMaxLength {
		return h.Name + suffix
	}
	suffix = "-" + shortHash(h.Name) + suffix
	return strings.TrimRight(h.Name[:validation.DNS1123SubdomainMaxLength-len(suffix)], ".-") + suffix
}
