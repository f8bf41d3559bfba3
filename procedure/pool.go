package procedure

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// retry is how soon it is looked again at what a provider has to allow, or to note.
const retry = 200 * time.Millisecond

// Pool is a pool that a procedure changes. It is read from the API server itself each time.
type Pool struct {
	ipam.PoolReference
	Client client.Client
	// Provider is that of the pool, and Namespace empty for one of all namespaces.
	Provider  ipam.Provider
	Namespace string
}

// Read is the pool as it is now. That there is none is an error.
func (p Pool) Read(ctx context.Context) (client.Object, error) {
	pool, err := p.Provider.Read(ctx, p.Client, p.Client, p.Namespace, p.PoolReference)
	if err == nil && pool == nil {
		err = fmt.Errorf("%s does not exist", p.In(p.Namespace))
	}
	return pool, err
}

// Reshape changes the pool as it is now, unless others change it, too: then it is a conflict.
func (p Pool) Reshape(ctx context.Context, change func(client.Object) error) error {
	pool, err := p.Read(ctx)
	if err != nil {
		return err
	}
	before := pool.DeepCopyObject().(client.Object)
	if err := change(pool); err != nil || equality.Semantic.DeepEqual(before, pool) {
		return err
	}
	return kube.PatchAsRead(ctx, p.Client, pool, before)
}

// Addresses are the address objects of the pool, of all claim APIs that its provider serves.
func (p Pool) Addresses(ctx context.Context) ([]ipam.Address, error) {
	kinds := []ipam.Objects{p.Provider}
	if twinned, ok := p.Provider.(ipam.Twinned); ok {
		kinds = append(kinds, twinned.Twin())
	}
	var found []ipam.Address
	for _, kind := range kinds {
		objects, err := kube.List(ctx, p.Client, ipam.EmptyAddress(kind), client.InNamespace(p.Namespace))
		if err != nil && !kube.IsAbsent(err) {
			return nil, fmt.Errorf("listing the addresses of %s: %w", p.In(p.Namespace), err)
		}
		for _, object := range objects {
			if address := kind.ReadAddress(object); address.Pool == p.PoolReference {
				found = append(found, address)
			}
		}
	}
	return found, nil
}

// AwaitNoted waits, for a moment, until the provider is seen to know the pool as it is now. What
// it gives all the same has to be looked for afterwards.
func (p Pool) AwaitNoted(ctx context.Context, noted func(client.Object) bool) error {
	const patience = 10 * time.Second
	for began := time.Now(); time.Since(began) < patience; {
		pool, err := p.Read(ctx)
		if err != nil || noted(pool) {
			return err
		}
		if err := Pause(ctx, retry); err != nil {
			return err
		}
	}
	return nil
}

// Insist tries to change a pool until that is done. What the webhook of a provider refuses, it
// may allow a moment later: it goes by what its own cache has.
func Insist(ctx context.Context, timeout time.Duration, what string, try func() (bool, error)) error {
	for began := time.Now(); ; {
		finished, err := try()
		switch {
		case err == nil && finished:
			return nil
		case err != nil && !apierrors.IsConflict(err) && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err):
			return fmt.Errorf("%s: %w", what, err)
		case time.Since(began) > timeout:
			return fmt.Errorf("%s: after %s, %w", what, timeout, err)
		}
		if err := Pause(ctx, retry); err != nil {
			return err
		}
	}
}

// Pause waits for a while, and returns an error if the context ends before.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
