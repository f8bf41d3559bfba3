package allocator

import (
	"context"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Claim is a provider's claim object with what the rest of the program needs
// to know of it.
type Claim struct {
	// Object is the provider's own object, for its metadata and for writes.
	client.Object
	Pool PoolReference
	// Address names the address object that answers the claim, empty until bound.
	Address string
	// Failure is the provider's word that it will not bind the claim.
	Failure string
	// Exhausted says that the failure is that the pool has no address left.
	Exhausted bool
}

// Address is a provider's answer to a claim.
type Address struct {
	// Object is the provider's own object, for its metadata and for writes.
	client.Object
	Pool PoolReference
	// Claim names the claim that the address answers.
	Claim string
	// IP is the address as the provider wrote it; it may be anything.
	IP string
}

// Pool is what a provider knows of a pool at one moment.
type Pool struct {
	// Object is the provider's own object.
	client.Object
	Reference PoolReference
	// Total is the number of addresses in the pool's ranges.
	Total uint64
	// Free tells how many addresses are left for claims of these names (at
	// least, if that is enough), and how many of the claims need one of them: a
	// claim may have one reserved.
	Free func(claims []string) (free, needed uint64)
}

// Provider is one claim API: how to claim, and how to read what comes back.
// Its methods that read take the reader, because the caller knows whether a
// cache will do or the API server must be asked.
type Provider interface {
	// Kinds returns empty objects of the provider's API: pool, claim, address.
	Kinds() (pool, claim, address client.Object)
	// NewClaim makes a claim of this name on the pool, unmarked and not stored.
	NewClaim(key types.NamespacedName, pool PoolReference) client.Object
	// Request makes a claim ask for this very address.
	Request(claim client.Object, ip netip.Addr)
	// IsFree tells whether the finalizers of a claim or an address are all the
	// provider's own.
	IsFree(obj client.Object) bool

	// Claim and Address read a provider's objects.
	Claim(obj client.Object) Claim
	Address(obj client.Object) Address

	// Pool reads a pool of this namespace and sees that it can serve. It
	// returns a Refusal if the pool does not exist, is terminating, or is one
	// that the provider ignores.
	Pool(ctx context.Context, reader client.Reader, namespace string, want Want) (Pool, error)
	// Bind checks the answer to a claim against its pool, and returns what is
	// to be injected. It returns a Refusal if the answer is garbage.
	Bind(pool Pool, address Address, want Want) (Binding, error)
}
