package ipam

import "k8s.io/apimachinery/pkg/types"

// Machine is for whom addresses are claimed. At admission the object is not
// stored yet: a name is all there is.
type Machine struct {
	types.NamespacedName
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

// Want is one address that one device needs from one pool.
type Want struct {
	Device Device
	Pool   PoolReference
	// AskedBy says which metadata named the pool, for a denial that can be
	// acted upon, e.g. `label x of VSphereMachineTemplate "cp"`.
	AskedBy string
	// AlsoMissing are, for a bare name of which the namespace has no pool that can be
	// used, the others that it might mean. They are for texts and for Shortages only.
	AlsoMissing []PoolReference
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
	// the device's own: where two addresses share a name, such a provider takes
	// them for one host and gives both the same.
	Host string
}
