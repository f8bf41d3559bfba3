package ipam

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"time"

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
	// Requested is the address that the claim asks for, the zero Addr if any will do.
	Requested netip.Addr
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
	// Offers tells whether an address is one of the pool's, and whether a claim of this name
	// can not have it, because another has it or it is reserved for another. It is nil
	// where a claim cannot ask for an address.
	Offers func(ip netip.Addr, claim string) (in, taken bool)
	// Silent says that the provider leaves a claim without a word when the pool
	// has no address for it, so that the pool has to be asked.
	Silent bool
	// Watched says that the pool is watched, and may say itself that it is full.
	Watched bool
	// Taking is how its addresses are taken without the provider. It is nil where they
	// cannot be.
	Taking *Taking
}

// ClaimSpec is what a new claim is to say.
type ClaimSpec struct {
	Name    string
	Machine Machine
	Pool    PoolReference
	// Host is the name to register with the address, that of the machine if empty.
	Host string
	// IP is the address that the claim is to ask for, the zero Addr if any will do.
	IP netip.Addr
	// PoolObject is the pool as it was read, nil if it was not.
	PoolObject client.Object
}

// Provider is one claim API: what its objects are, what its pools are, how to
// claim, and how to read what comes back. Methods that read take the reader,
// because the caller knows whether a cache will do or the API server must be asked.
//
// What only some providers can do is in interfaces of their own: Requester,
// Abandoner, Lingering, Twinned, Shorthand, Ranged and Detailed.
//
// The provider's controller must answer a claim by an address object of its own, in the
// claim's namespace, with an owner reference to the claim (see Answers), and must not
// take it for free while a finalizer of others is on it. An address that it leaves behind
// before that is marked is found by the claim's labels, if it has these, as metal3's do.
type Provider interface {
	// Name tells the provider from all others.
	Name() string
	Objects
	Pools
	Claims
}

// Objects are the claims and addresses of a provider.
type Objects interface {
	// Kinds returns empty objects of the claim API: claim and address. They are Go types
	// of the scheme, and no other provider's.
	Kinds() (claim, address client.Object)
	// ReadClaim and ReadAddress read a provider's objects.
	ReadClaim(obj client.Object) Claim
	ReadAddress(obj client.Object) Address
	// HasOnlyOwnFinalizers tells whether the finalizers of a claim or an address are
	// all the provider's own.
	HasOnlyOwnFinalizers(obj client.Object) bool
}

// Pools are the pools of a provider.
type Pools interface {
	// Serves tells whether claims on this pool are made through this API.
	Serves(pool PoolReference) bool
	// PoolKinds returns an empty object of each kind of pool that is watched. Pools
	// of other kinds are read from the API server.
	PoolKinds() []client.Object
	// Pool reads a pool and checks that it can serve the machine. It returns a
	// Refusal if the pool does not exist, is terminating, or is one that the
	// provider ignores.
	Pool(ctx context.Context, reader client.Reader, machine Machine, want Want) (Pool, error)
	// Read reads a pool as it is, whatever it can serve: from the cache, or from the
	// API server where the cache has none. It is nil if there is none.
	Read(ctx context.Context, cached, live client.Reader, namespace string, pool PoolReference) (client.Object, error)
	// IsFull tells whether a pool of a silent provider says that it has no free
	// address.
	IsFull(pool client.Object) bool
	// Gives tells whether a machine can be given an address that the pool as it is
	// now hands out. It says nothing of who uses the address.
	Gives(pool Pool, ip netip.Addr) bool
}

// Claims are how addresses are claimed from a provider.
type Claims interface {
	// NewClaim makes a claim, unmarked and not stored.
	NewClaim(spec ClaimSpec) client.Object
	// Bind checks the answer to a claim against its pool, and returns what is
	// to be injected. It returns a Refusal if the answer is garbage.
	Bind(pool Pool, address Address, want Want) (Binding, error)
	// WhyNotBound is what can be seen of why a claim waits, with the remedy, empty
	// if nothing. The cause is the same on every try.
	WhyNotBound(ctx context.Context, reader client.Reader, pool Pool, claim Claim) string
	// Traits are what the provider does with claims in its own way.
	Traits() Traits
}

// Traits are the ways in which providers differ.
type Traits struct {
	// BindsByName: the provider gives a claim the address that is there for an
	// earlier claim of its name, and leaves the address as it is.
	BindsByName bool
	// KeepsFinalizedClaims: the provider keeps the address of a claim that is being
	// deleted for as long as a finalizer of others is on the claim.
	KeepsFinalizedClaims bool
}

// Requester is a provider of which a given address can be claimed.
type Requester interface {
	// CanRequest tells whether a given address of the pool can be claimed.
	CanRequest(pool PoolReference) bool
	// Request makes a claim ask for this very address, where the claim can.
	Request(claim client.Object, ip netip.Addr)
	// Requested is the address object that has to be there before the claim of
	// the binding, so that the claim gets this very address. It is nil if the
	// claim itself asks. A provider may meanwhile hand out such an address once
	// more: after it has bound the claim, the pool has to be searched for another.
	Requested(namespace string, binding Binding) client.Object
}

// Abandoner is a provider that leaves some claims for ever as they are.
type Abandoner interface {
	// Abandons tells whether the provider will never finish the deletion of
	// this claim, because its pool is gone. That it is gone is believed of the
	// live reader only; that it is there, of the cache as well.
	Abandons(ctx context.Context, cached, live client.Reader, claim Claim) (bool, error)
}

// Lingering is a provider that itself keeps an address for a while after its claim was
// deleted.
type Lingering interface {
	// Lingers is for how long.
	Lingers(pool client.Object) time.Duration
}

// Twinned is a provider beside which the same IPAM controller serves another claim
// API from the same pools. It names the addresses of both alike, and may give one
// twice.
type Twinned interface {
	Twin() Objects
}

// Shorthand is a provider whose pools can be asked for by less than all of their
// reference.
type Shorthand interface {
	// ByName refers to the pool that a bare name means.
	ByName(name string) PoolReference
	// Shared refers to the pool of all namespaces that has this name, which a bare
	// name means only if the pool says whom it is for. It is false if the provider has
	// no such pools.
	Shared(name string) (PoolReference, bool)
	// EmptyPool is an empty object of the kind of such a pool.
	EmptyPool(pool PoolReference) client.Object
}

// Providers are all claim APIs that can be claimed through, see NewProviders.
type Providers []Provider

// NewProviders puts the providers in order: the first that serves a pool has it,
// and the fallback has whatever no other serves. The first that has a Shorthand has the
// pools of bare names, and tells of those that are missing.
func NewProviders(fallback Provider, others ...Provider) Providers {
	return append(slices.Clone(others), fallback)
}

// Abandons tells whether a provider will never finish the deletion of a claim.
func Abandons(ctx context.Context, cached, live client.Reader, provider Provider, claim Claim) (bool, error) {
	abandoner, ok := provider.(Abandoner)
	if !ok {
		return false, nil
	}
	return abandoner.Abandons(ctx, cached, live, claim)
}

// Lingers is for how long a provider itself keeps an address of a pool after its claim
// was deleted.
func Lingers(provider Provider, pool client.Object) time.Duration {
	lingering, ok := provider.(Lingering)
	if !ok {
		return 0
	}
	return lingering.Lingers(pool)
}

// For returns the provider that serves a pool.
func (p Providers) For(pool PoolReference) Provider {
	return p.first(func(provider Provider) bool { return provider.Serves(pool) })
}

// OfAddress is the provider of whose API an address object is. That of its pool may be
// another one, see Twinned.
func (p Providers) OfAddress(address client.Object) Provider {
	return p.first(func(provider Provider) bool { return reflect.TypeOf(EmptyAddress(provider)) == reflect.TypeOf(address) })
}

// OfClaim is to claims what OfAddress is to addresses.
func (p Providers) OfClaim(claim client.Object) Provider {
	return p.first(func(provider Provider) bool { return reflect.TypeOf(EmptyClaim(provider)) == reflect.TypeOf(claim) })
}

// first is the first provider of which something holds, or else the fallback.
func (p Providers) first(holds func(Provider) bool) Provider {
	if i := slices.IndexFunc(p, holds); i >= 0 {
		return p[i]
	}
	return p[len(p)-1]
}

// Pool reads a pool through its provider.
func (p Providers) Pool(ctx context.Context, reader client.Reader, machine Machine, want Want) (Pool, error) {
	return p.For(want.Pool).Pool(ctx, reader, machine, want)
}

// EmptyClaim is an empty claim of a claim API.
func EmptyClaim(p Objects) client.Object {
	claim, _ := p.Kinds()
	return claim
}

// EmptyAddress is an empty address of a claim API.
func EmptyAddress(p Objects) client.Object {
	_, address := p.Kinds()
	return address
}
