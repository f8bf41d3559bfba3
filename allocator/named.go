package allocator

import (
	"context"
	"fmt"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Named finds the pool that a bare name means: the metal3 IPPool of that name in
// the namespace, or the InClusterIPPool if there is no such IPPool, or only one
// that is being deleted: so a cluster can go from one provider to the other and
// keep its templates. If there is neither, it is the IPPool that is missing.
func (a *Allocator) Named(ctx context.Context, namespace, name string) (PoolReference, error) {
	metal3, inCluster := Metal3Pool(name), InClusterPool(name)
	for _, reader := range []client.Reader{a.client, a.live} {
		isMetal3, err := isUsable(ctx, reader, namespace, metal3, &ipamv1.IPPool{})
		if err != nil {
			return metal3, err
		}
		isInCluster, err := isUsable(ctx, reader, namespace, inCluster, unstructuredPool(inClusterVersion.WithKind(InClusterKind)))
		switch {
		case err != nil:
			return metal3, err
		case isMetal3 && isInCluster && reader == client.Reader(a.client):
			// Somebody goes from one to the other: the cache will not do.
		case isMetal3:
			return metal3, nil
		case isInCluster:
			return inCluster, nil
		}
	}
	return metal3, nil
}

// isUsable tells whether a pool exists and is not being deleted.
func isUsable(ctx context.Context, reader client.Reader, namespace string, ref PoolReference, pool client.Object) (bool, error) {
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: ref.Name}, pool, client.UnsafeDisableDeepCopy)
	switch {
	case IsAbsent(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for %s: %w", ref.In(namespace), err)
	}
	return pool.GetDeletionTimestamp().IsZero(), nil
}
