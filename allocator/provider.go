package allocator

import (
	"context"
	"net/netip"
	"reflect"
	"slices"

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
	// Waits is the provider's reason for a claim that is not bound yet.
	Waits string
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
	// claim may have one reserved. It is nil where the provider does not say.
	Free func(claims []string) (free, needed uint64)
	// Silent says that the provider leaves a claim without a word when the pool
	// has no address for it, so that the pool has to be asked.
	Silent bool
	// Watched says that the pool is watched, and may say itself that it is full.
	Watched bool
}

// Provider is one claim API: how to claim, and how to read what comes back.
// Its methods that read take the reader, because the caller knows whether a
// cache will do or the API server must be asked.
type Provider interface {
	// Serves tells whether claims on this pool are made through this API.
	Serves(pool PoolReference) bool
	// Pools returns an empty object of each kind of pool that is watched. Pools
	// of other kinds are read from the API server.
	Pools() []client.Object
	// IsFull tells whether a pool of a silent provider says that it has no free
	// address.
	IsFull(pool client.Object) bool
	// Kinds returns empty objects of the claim API: claim and address.
	Kinds() (claim, address client.Object)
	// NewClaim makes a claim of this name on the pool, unmarked and not stored.
	NewClaim(name string, machine Machine, pool PoolReference) client.Object
	// CanRequest tells whether a given address of the pool can be claimed.
	CanRequest(pool PoolReference) bool
	// Request makes a claim ask for this very address, where it can.
	Request(claim client.Object, ip netip.Addr)
	// Requested is the address object that has to be there before the claim of
	// the binding, so that the claim gets this very address. It is nil if the
	// claim itself asks. A provider may meanwhile hand out such an address once
	// more: after it has bound the claim, the pool has to be searched for another.
	Requested(namespace string, binding Binding) client.Object
	// GoesByName tells whether the provider gives a claim the address that is there
	// for an earlier claim of its name, and leaves the address as it is.
	GoesByName() bool
	// HonoursFinalizers tells whether the provider keeps the address of a claim
	// that is being deleted for as long as a finalizer of others is on the claim.
	HonoursFinalizers() bool
	// IsFree tells whether the finalizers of a claim or an address are all the
	// provider's own.
	IsFree(obj client.Object) bool
	// Abandons tells whether the provider will never finish the deletion of
	// this claim, because its pool is gone. That it is gone is believed of the
	// live reader only; that it is there, of the cache as well.
	Abandons(ctx context.Context, cached, live client.Reader, claim Claim) (bool, error)

	// Gives tells whether a machine can be given an address that the pool as it is
	// now hands out. It says nothing of who uses the address.
	Gives(pool Pool, ip netip.Addr) bool
	// WhyNotBound is what can be seen of why a claim waits, with the remedy, empty
	// if nothing. The cause is the same on every try.
	WhyNotBound(ctx context.Context, reader client.Reader, pool Pool, claim Claim) string
	// Twin is another claim API that the same IPAM controller serves from the same
	// pools. It names the addresses of both alike, and may give one twice. It is nil
	// if there is none.
	Twin() Provider

	// Claim and Address read a provider's objects.
	Claim(obj client.Object) Claim
	Address(obj client.Object) Address

	// Pool reads a pool and sees that it can serve the machine. It returns a
	// Refusal if the pool does not exist, is terminating, or is one that the
	// provider ignores.
	Pool(ctx context.Context, reader client.Reader, machine Machine, want Want) (Pool, error)
	// Bind checks the answer to a claim against its pool, and returns what is
	// to be injected. It returns a Refusal if the answer is garbage.
	Bind(pool Pool, address Address, want Want) (Binding, error)
}

// Providers are all claim APIs that can be claimed through.
type Providers []Provider

// For returns the provider that serves a pool. The last one serves whatever no
// other does.
func (p Providers) For(pool PoolReference) Provider {
	i := slices.IndexFunc(p, func(provider Provider) bool { return provider.Serves(pool) })
	if i < 0 {
		i = len(p) - 1
	}
	return p[i]
}

// OfAddress is the provider of whose API an address object is. That of its pool may be
// another one, see Provider.Twin.
func (p Providers) OfAddress(address client.Object) Provider {
	for _, provider := range p {
		if _, kind := provider.Kinds(); reflect.TypeOf(kind) == reflect.TypeOf(address) {
			return provider
		}
	}
	return p[len(p)-1]
}

// Pool reads a pool through its provider.
func (p Providers) Pool(ctx context.Context, reader client.Reader, machine Machine, want Want) (Pool, error) {
	return p.For(want.Pool).Pool(ctx, reader, machine, want)
}

// EmptyClaim is an empty claim of a provider's API.
func EmptyClaim(p Provider) client.Object {
	claim, _ := p.Kinds()
	return claim
}

// EmptyAddress is an empty address of a provider's API.
func EmptyAddress(p Provider) client.Object {
	_, address := p.Kinds()
	return address
}
