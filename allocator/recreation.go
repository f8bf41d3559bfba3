package allocator

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// Recreation makes claims anew for addresses that machines, or endpoints, have.
type Recreation struct {
	Providers ipam.Providers
	Client    client.Client
	Live      client.Reader
	// Pools reads pools from the cache.
	Pools client.Reader
}

// NewClaim is a claim for the holder of a binding, unmarked and not stored.
func (r Recreation) NewClaim(ctx context.Context, holder ipam.Machine, b ipam.Binding) client.Object {
	provider := r.Providers.For(b.Pool)
	// What the pool tells saves a write, and is worth no failure.
	pool, _ := provider.Read(ctx, r.Pools, r.Live, holder.Namespace, b.Pool)
	return provider.NewClaim(ipam.ClaimSpec{Name: b.Claim, Machine: holder, Pool: b.Pool, PoolObject: pool})
}

// Make makes a claim anew. If its address is there before it, it is marked as one that has
// to be verified when it is bound. It is no error if there is one already.
func (r Recreation) Make(ctx context.Context, claim client.Object, b ipam.Binding, placed bool, now time.Time) (made bool, err error) {
	ipam.Use(claim, ipam.Stamp{Time: now})
	if placed {
		kube.SetAnnotation(claim, ipam.RecreatedAnnotation, b.Address.Addr().String())
	}
	if err := r.Client.Create(ctx, claim); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return false, nil
		}
		return false, fmt.Errorf("recreating claim %s: %w", klog.KObj(claim), err)
	}
	return true, nil
}

// Confirm takes off a claim that it has to be verified.
func (r Recreation) Confirm(ctx context.Context, claim client.Object) error {
	before := claim.DeepCopyObject().(client.Object)
	annotations := claim.GetAnnotations()
	delete(annotations, ipam.RecreatedAnnotation)
	claim.SetAnnotations(annotations)
	if err := kube.PatchAsRead(ctx, r.Client, claim, before); err != nil {
		return fmt.Errorf("confirming claim %s: %w", klog.KObj(claim), err)
	}
	return nil
}

// Placement is what became of an address object that has to be there before its claim.
type Placement int

const (
	// NotPlaced says that it is not there yet, or is not its holder's.
	NotPlaced Placement = iota
	// Placed says that it is there.
	Placed
	// Taken says that the address is somebody else's by now.
	Taken
)

// CanRequest tells whether the very address of a binding can be claimed anew, and
// whether that takes an address object which is there before the claim.
func (r Recreation) CanRequest(namespace string, b ipam.Binding) (requestable, placed bool) {
	requester, ok := r.Providers.For(b.Pool).(ipam.Requester)
	if !ok {
		return false, false
	}
	return requester.CanRequest(b.Pool), requester.Requested(namespace, b) != nil
}

// Place makes the address object of a claim that is to be recreated, unless there is
// one, or the address is somebody else's by now. It is marked for its holder from the
// start.
func (r Recreation) Place(ctx context.Context, holder ipam.Holder, b ipam.Binding, there *ipam.Address, fresh func() client.Object) (Placement, error) {
	address := fresh()
	others, err := r.Others(ctx, address.GetNamespace(), b, r.Client)
	switch {
	case err != nil:
		return NotPlaced, err
	case len(others) > 0:
		return Taken, nil
	case there != nil:
		return Placed, nil
	}
	err = r.Client.Create(ctx, address)
	switch {
	case apierrors.IsAlreadyExists(err):
		// It is the same one, which the cache does not have yet, or is in the way.
		return r.isPlaced(ctx, holder, b, address)
	case err != nil:
		return NotPlaced, fmt.Errorf("recreating address %s: %w", klog.KObj(address), err)
	}
	klog.FromContext(ctx).Info("Recreated an address that was missing", "address", klog.KObj(address), "ip", b.Address)
	return Placed, nil
}

func (r Recreation) isPlaced(ctx context.Context, holder ipam.Holder, b ipam.Binding, address client.Object) (Placement, error) {
	provider := r.Providers.For(b.Pool)
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(address), address); err != nil {
		return NotPlaced, client.IgnoreNotFound(err)
	}
	found := provider.ReadAddress(address)
	if found.Pool != b.Pool || found.Claim != b.Claim || capi.ParseAddress(found.IP) != b.Address.Addr() {
		return Taken, nil
	}
	if !found.GetDeletionTimestamp().IsZero() || ipam.HolderOf(found) != holder {
		return NotPlaced, nil
	}
	return Placed, nil
}

// Others are the address objects that answer other claims with the address of a
// binding: in its namespace, or, if the pool has none, in all.
func (r Recreation) Others(ctx context.Context, namespace string, b ipam.Binding, reader client.Reader) ([]ipam.Address, error) {
	provider := r.Providers.For(b.Pool)
	in, err := r.NamespaceOf(namespace, b.Pool)
	if err != nil {
		return nil, err
	}
	objects, err := kube.ListFrom(ctx, r.Client, reader, ipam.EmptyAddress(provider), client.InNamespace(in), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("searching %s for other claims on %s: %w", b.Pool, b.Address.Addr(), err)
	}
	var others []ipam.Address
	for _, obj := range objects {
		address := provider.ReadAddress(obj)
		own := address.GetNamespace() == namespace && address.Claim == b.Claim
		if address.Pool == b.Pool && capi.ParseAddress(address.IP) == b.Address.Addr() && !own {
			others = append(others, address)
		}
	}
	return others, nil
}

// NamespaceOf is the namespace in which the addresses of a pool are: all, if pools of
// its kind have no namespace, else the one that its claims are in.
func (r Recreation) NamespaceOf(claims string, pool ipam.PoolReference) (string, error) {
	mapping, err := r.Client.RESTMapper().RESTMapping(schema.GroupKind{Group: pool.APIGroup, Kind: pool.Kind})
	switch {
	case meta.IsNoMatchError(err):
		return claims, nil
	case err != nil:
		return "", fmt.Errorf("looking for the scope of %s: %w", pool, err)
	case mapping.Scope.Name() == meta.RESTScopeNameRoot:
		return metav1.NamespaceAll, nil
	}
	return claims, nil
}

// Verdict is what has to become of a claim that was recreated and is bound.
type Verdict int

const (
	// Stays says that nobody else has its address.
	Stays Verdict = iota
	// Waits says that another one has, which is to give way.
	Waits
	// GivesWay says that another one has, and keeps it.
	GivesWay
)

// Verify checks, now that the provider has bound a claim which was recreated, and so
// knows of its address, that it has given that to nobody else meanwhile. If it has, the
// claim is to be taken back: one owner is all that a provider can keep apart.
func (r Recreation) Verify(ctx context.Context, namespace string, b ipam.Binding, own ipam.Address) (Verdict, error) {
	others, err := r.Others(ctx, namespace, b, r.Live)
	if err != nil {
		return Waits, err
	}
	for _, other := range others {
		loses, err := r.losesTo(ctx, own, other)
		switch {
		case err != nil:
			return Waits, err
		case loses:
			return GivesWay, nil
		}
	}
	if len(others) > 0 {
		return Waits, nil
	}
	return Stays, nil
}

// losesTo tells whether a claim that was recreated has to give way to the one
// that another address answers. Of two that were recreated at once, for copies of
// one machine, one has to stay.
func (r Recreation) losesTo(ctx context.Context, own, other ipam.Address) (bool, error) {
	// The mark on the other claim is asked for again: if the cache still shows it while the
	// other one has been verified, neither would give way.
	claim := ipam.EmptyClaim(r.Providers.For(other.Pool))
	err := r.Live.Get(ctx, types.NamespacedName{Namespace: other.GetNamespace(), Name: other.Claim}, claim)
	if kube.IsAbsent(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading claim %s: %w", other.Claim, err)
	}
	return !ipam.IsRecreated(claim) || other.GetUID() < own.GetUID(), nil
}

// CountClaimed counts a claim that was made for an address which was there before.
func (Recreation) CountClaimed() { claimsMade.Inc() }

// CountRecreated counts a claim that was made anew, and is its holder's.
func (Recreation) CountRecreated() { claimsRecreated.Inc() }

// CountLost counts that an address was found in use that is not bound to who uses it.
func (Recreation) CountLost() { addressesLost.Inc() }
