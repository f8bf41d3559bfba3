package ipam

import (
	"net/netip"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Used are the addresses of a pool that exist, those included that are being deleted. It is
// what a cache knows, at the moment in which it is asked: a hint, which may be behind.
type Used interface {
	// Objects is the number of address objects, whatever they hold.
	Objects() int
	// Has tells whether there is an object of this address.
	Has(ip netip.Addr) bool
	// CountIn is how many addresses of a set there are objects of. Two of one address
	// count once.
	CountIn(set *netipx.IPSet) uint64
	// Claims is the number of claims that the objects answer, and HasClaim tells whether
	// this is one of them.
	Claims() int
	HasClaim(claim types.NamespacedName) bool
	// NamedOtherwise is how many objects of the pool's own claim API have not the names
	// that they would have with this prefix, see Naming.
	NamedOtherwise(prefix string) int
	// Twins is how many claims and addresses of another claim API name the pool, see
	// Twinned. It is false while not all of them are known.
	Twins() (count int, known bool)
}

// Counter is a reader that counts addresses as they come and go, so that they need not be
// listed to be counted.
type Counter interface {
	// Used are the addresses of a pool; of one without a namespace, those in all. It is
	// false while not all of them are known: then they have to be listed.
	Used(namespace string, pool PoolReference) (Used, bool)
}

// UsedBy are the addresses of a pool as a reader has counted them, false if it does not
// count, as one of the API server.
func UsedBy(reader client.Reader, namespace string, pool PoolReference) (Used, bool) {
	counter, ok := reader.(Counter)
	if !ok {
		return nil, false
	}
	return counter.Used(namespace, pool)
}

// Naming is a provider that names an address by what it is.
type Naming interface {
	// NamePrefix is the name of an address object without the part that comes from the
	// address. It is false if the object is not named by its address.
	NamePrefix(address Address) (prefix string, ok bool)
}
