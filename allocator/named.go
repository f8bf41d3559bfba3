package allocator

import (
	"context"
	"fmt"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Named finds the pool that a bare name means: the metal3 IPPool of that name in
// the namespace, or the InClusterIPPool if there is no such IPPool, or only one
// that is being deleted: so a cluster can go from one provider to the other and
// keep its templates. If there is neither, it is the IPPool that is missing.
func (a *Allocator) Named(ctx context.Context, namespace, name string) (PoolReference, error) {
	for _, reader := range []client.Reader{a.client, a.live} {
		for _, candidate := range []struct {
			ref  PoolReference
			pool client.Object
		}{
			{Metal3Pool(name), &ipamv1.IPPool{}},
			{InClusterPool(name), unstructuredPool(inClusterVersion.WithKind(InClusterKind))},
		} {
			err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, candidate.pool, client.UnsafeDisableDeepCopy)
			switch {
			case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
			case err != nil:
				return PoolReference{}, fmt.Errorf("looking for %s: %w", candidate.ref.In(namespace), err)
			case candidate.pool.GetDeletionTimestamp().IsZero():
				return candidate.ref, nil
			}
		}
	}
	return Metal3Pool(name), nil
}
