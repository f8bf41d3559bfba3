package ipam

import (
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Machine is for whom addresses are claimed: a machine or, by its kind, a VSphereCluster.
// At admission the object is not stored yet: a name is all there is.
type Machine struct {
	types.NamespacedName
	Kind HolderKind
	// Cluster is the name of the CAPI Cluster, empty if the machine names none.
	Cluster string
	// WatchFilter is the value of the label by which controllers share objects
	// out among themselves, empty if the machine has none.
	WatchFilter string
}

// Owner is for whom a machine is made, as a rule a MachineSet or a control plane.
type Owner struct {
	Kind, Name string
	// UID is empty if the machine has no owner.
	UID types.UID
	// User is who makes the machine for the owner. Anybody can write an owner into
	// a machine, so that owners are told apart by this as well.
	User string
}

// Ask is one address that one device asks for. A device that asks for several has an Ask
// for each.
type Ask struct {
	Device Device
	// Nth is the place of the address among those that the device asks for, from 0.
	Nth int
	// Choices are the pools from which it may be, those first that are preferred.
	Choices []Choice
	// AskedBy says which metadata named the pools, for a denial that can be
	// acted upon, e.g. `label x of VSphereMachineTemplate "cp"`.
	AskedBy string
	// Endpoint says that it is the endpoint of a control plane that asks, and no device.
	Endpoint bool
	// NoGateway says that the device must not get the pool's gateway.
	NoGateway bool
	// Sites are where the device may turn out to be: one if the machine's failure
	// domain is known. There are none where failure domains play no part, and the
	// device then is on the network that it names.
	Sites []Site
	// DomainsOf is how a sentence begins that names these failure domains, e.g.
	// `MachineSet "md" is for`.
	DomainsOf string
	// Host is the name for providers that register one with the address. It is
	// the address's own: where two addresses share a name, such a provider takes
	// them for one host and gives both the same.
	Host string
}

// Slot is the place of the address on its machine.
func (a Ask) Slot() Slot { return Slot{Device: a.Device.Index, Nth: a.Nth} }

// PoolsAnnotation is the annotation by which the same is asked for.
func (a Ask) PoolsAnnotation() string {
	if a.Endpoint {
		return PoolsAnnotationPrefix + EndpointDevice
	}
	return PoolsAnnotationPrefix + strconv.Itoa(a.Device.Index)
}

// Choice is a pool, or all pools that bear some labels.
type Choice struct {
	// Pool may leave its kind or its API group open. It is empty where labels are given.
	Pool PoolReference
	// Labels are those of the pools.
	Labels PoolLabels
	// IP is the very address that is wanted, the zero Addr if any will do.
	IP netip.Addr
}

// Want is an Ask with the pool that is looked at, or was chosen, for it.
type Want struct {
	Ask
	Pool PoolReference
	// AlsoMissing are, for a bare name of which the namespace has no pool that can be
	// used, the others that it might mean. They are for texts and for Shortages only.
	AlsoMissing []PoolReference
	// IP is the very address that is wanted of the pool, the zero Addr if any will do.
	IP netip.Addr
}

const (
	// PoolGroupLabel on pools is what machines can ask for in place of a pool's name.
	PoolGroupLabel = "cluster.x-k8s.io/ip-pool-group"
	// NetworkNameLabel is likewise. Both are the static IP adapters' names.
	NetworkNameLabel = "cluster.x-k8s.io/network-name"
)

// PoolLabels are the labels by which pools are asked for. Those that are empty are not.
type PoolLabels struct {
	Group, NetworkName string
}

// LabelsOf are those labels of an object.
func LabelsOf(obj metav1.Object) PoolLabels {
	return PoolLabels{Group: obj.GetLabels()[PoolGroupLabel], NetworkName: obj.GetLabels()[NetworkNameLabel]}
}

// IsEmpty tells whether nothing is asked for.
func (l PoolLabels) IsEmpty() bool { return l == PoolLabels{} }

// Set are the labels that pools have to bear.
func (l PoolLabels) Set() map[string]string {
	set := map[string]string{}
	if l.Group != "" {
		set[PoolGroupLabel] = l.Group
	}
	if l.NetworkName != "" {
		set[NetworkNameLabel] = l.NetworkName
	}
	return set
}

// String is how a sentence names the labels.
func (l PoolLabels) String() string {
	var texts []string
	if l.Group != "" {
		texts = append(texts, PoolGroupLabel+"="+l.Group)
	}
	if l.NetworkName != "" {
		texts = append(texts, NetworkNameLabel+"="+l.NetworkName)
	}
	return strings.Join(texts, " and ")
}
