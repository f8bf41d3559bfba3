package ipam

import (
	"net/netip"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Detailed is a provider that can tell more of a pool than its ranges.
type Detailed interface {
	Details(pool client.Object) Details
}

// Details are what a pool says of itself, beside its ranges.
type Details struct {
	// Bits is how long the prefix of its addresses is, 0 if they differ, or do not say.
	Bits int
	// Gateways and Nameservers are what machines are given with its addresses.
	Gateways, Nameservers []string
	// KeptFor are addresses that the pool gives only to the claim of a name, by that name.
	// They may be outside of its ranges.
	KeptFor map[string]netip.Addr
	// Needed are addresses of its ranges that the network of the pool needs itself. They are
	// those alone that the provider hands out all the same.
	Needed []NeededAddress
	// ToMove says what to do for clusterctl to take the pool along when it moves a Cluster.
	// It is empty for a pool that is taken along, or of which that is not known.
	ToMove string
}

// NeededAddress is an address that nobody should be given, and what needs it.
type NeededAddress struct {
	What string
	IP   netip.Addr
}

// DetailsOf are those of a provider's pool, see Detailed.
func DetailsOf(provider Provider, pool client.Object) Details {
	detailed, ok := provider.(Detailed)
	if !ok {
		return Details{}
	}
	return detailed.Details(pool)
}
