package allocator

import (
	"context"
	"fmt"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// resolve completes a want whose reference leaves something open. Without an API group
// the kind is that of a provider whose pools can be asked for in this way, or one
// of the group in which Cluster API's own IPAM providers have theirs.
//
// A bare name is that of the first provider's pool in the namespace; if there is
// none, or only one that is being deleted, it is that of the next provider's: so a
// cluster can go from one provider to another and keep its templates. If there is
// none at all, it is the pool of all namespaces of that name, if that says whom it is
// for; if it does not, resolve returns a Refusal that says how to ask for it. Else it is
// the first provider's pool that is missing.
func (a *Allocator) resolve(ctx context.Context, namespace string, want ipam.Want) (ipam.Want, error) {
	switch {
	case want.Pool.APIGroup != "":
		return want, nil
	case want.Pool.Kind != "":
		want.Pool = a.groupOf(want.Pool)
		return want, nil
	}
	for _, reader := range []client.Reader{a.client, a.live} {
		usable, err := a.usable(ctx, reader, namespace, want.Pool.Name)
		switch {
		case err != nil:
			return want, err
		case len(usable) > 1 && reader == client.Reader(a.client):
			// Somebody goes from one to the other: the cache will not do.
		case len(usable) > 0:
			want.Pool = usable[0]
			return want, nil
		}
	}
	return a.missing(ctx, namespace, want)
}

// groupOf completes the reference to a pool of a kind.
func (a *Allocator) groupOf(pool ipam.PoolReference) ipam.PoolReference {
	for _, short := range a.shorthands() {
		if named := short.ByName(pool.Name); named.Kind == pool.Kind {
			return named
		}
	}
	pool.APIGroup = ipamv1.GroupVersion.Group
	return pool
}

// shorthands are the providers whose pools can be asked for by name.
func (a *Allocator) shorthands() []ipam.Shorthand {
	var shorthands []ipam.Shorthand
	for _, provider := range a.providers {
		if short, ok := provider.(ipam.Shorthand); ok {
			shorthands = append(shorthands, short)
		}
	}
	return shorthands
}

// usable are the pools that a bare name may mean and that can be used.
func (a *Allocator) usable(ctx context.Context, reader client.Reader, namespace, name string) ([]ipam.PoolReference, error) {
	var usable []ipam.PoolReference
	for _, short := range a.shorthands() {
		pool := short.ByName(name)
		is, err := isUsable(ctx, reader, namespace, pool, short.EmptyPool(pool))
		if err != nil {
			return nil, err
		}
		if is {
			usable = append(usable, pool)
		}
	}
	return usable, nil
}

// missing completes a want that names no kind where no pool of that name can be
// used in the namespace. A pool of all namespaces is meant only where it says so: its
// name may be alike by chance.
func (a *Allocator) missing(ctx context.Context, namespace string, want ipam.Want) (ipam.Want, error) {
	var missing []ipam.PoolReference
	for _, short := range a.shorthands() {
		missing = append(missing, short.ByName(want.Pool.Name))
	}
	name := want.Pool.Name
	want.Pool, want.AlsoMissing = missing[0], missing[1:]
	for _, short := range a.shorthands() {
		shared, ok := short.Shared(name)
		if !ok {
			continue
		}
		pool, err := a.sharedPool(ctx, short, shared)
		if err != nil || pool == nil {
			return want, err
		}
		if _, limited := pool.GetAnnotations()[ipam.UsedByAnnotation]; limited {
			// Whether it is for this machine is checked as of each pool. If it is not, one
			// of those that are missing would do.
			want.Pool, want.AlsoMissing = shared, missing
			return want, nil
		}
		return want, notMeant(missing, shared, namespace, want)
	}
	return want, nil
}

// sharedPool is a pool of all namespaces, nil if it cannot be used.
func (a *Allocator) sharedPool(ctx context.Context, short ipam.Shorthand, reference ipam.PoolReference) (client.Object, error) {
	for _, reader := range []client.Reader{a.client, a.live} {
		pool := short.EmptyPool(reference)
		usable, err := isUsable(ctx, reader, "", reference, pool)
		if err != nil || usable {
			return pool, err
		}
	}
	return nil, nil
}

// notMeant refuses a name that only a pool of all namespaces has.
func notMeant(missing []ipam.PoolReference, shared ipam.PoolReference, namespace string, want ipam.Want) error {
	var kinds []string
	var shortages []ipam.Shortage
	for _, pool := range missing {
		kinds = append(kinds, pool.Kind)
		shortages = append(shortages, ipam.Shortage{Pool: pool, Needed: 1})
	}
	refusal := ipam.Refuse(ipam.PoolNotFound, "no %s %q can be used in namespace %q, asked for by %s, "+
		"but a %s has that name: to use it, write %s/%s into annotation %s", strings.Join(kinds, " and no "), shared.Name, namespace, want.AskedBy,
		shared.Kind, shared.Kind, shared.Name, want.PoolsAnnotation())
	return ipam.WithShortages(refusal, shortages...)
}

// isUsable tells whether a pool exists and is not being deleted.
func isUsable(ctx context.Context, reader client.Reader, namespace string, ref ipam.PoolReference, pool client.Object) (bool, error) {
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: ref.Name}, pool, client.UnsafeDisableDeepCopy)
	switch {
	case kube.IsAbsent(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for %s: %w", ref.In(namespace), err)
	}
	return pool.GetDeletionTimestamp().IsZero(), nil
}
