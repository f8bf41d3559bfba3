package allocator

import (
	"context"
	"fmt"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// PoolsAnnotationPrefix and the index or the deviceName of a device make the
// annotation, on a machine or on its template, that names the device's pool.
const PoolsAnnotationPrefix = "pools.capv-static-ip.dev/"

// Named finds the pool that a bare name means, that of the want's reference: the
// metal3 IPPool of that name in the namespace, or the InClusterIPPool if there is
// no such IPPool, or only one that is being deleted: so a cluster can go from one
// provider to the other and keep its templates. If there is neither, it is the
// IPPool that is missing; but where a pool of all namespaces has that name, which
// a bare name never means, it returns a Refusal that says how to ask for it.
func (a *Allocator) Named(ctx context.Context, namespace string, want ipam.Want) (ipam.PoolReference, error) {
	metal3, inCluster := metal3.PoolNamed(want.Pool.Name), contract.InClusterPool(want.Pool.Name)
	for _, reader := range []client.Reader{a.client, a.live} {
		isMetal3, err := isUsable(ctx, reader, namespace, metal3, &ipamv1.IPPool{})
		if err != nil {
			return metal3, err
		}
		isInCluster, err := isUsable(ctx, reader, namespace, inCluster, contract.UnstructuredPool(contract.InClusterVersion.WithKind(contract.InClusterKind)))
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
	return metal3, a.seeNoGlobal(ctx, namespace, want)
}

// seeNoGlobal refuses a name that only a GlobalInClusterIPPool has.
func (a *Allocator) seeNoGlobal(ctx context.Context, namespace string, want ipam.Want) error {
	global := ipam.PoolReference{APIGroup: contract.InClusterVersion.Group, Kind: contract.GlobalInClusterKind, Name: want.Pool.Name}
	usable, err := isUsable(ctx, a.live, "", global, contract.UnstructuredPool(contract.InClusterVersion.WithKind(contract.GlobalInClusterKind)))
	if err != nil || !usable {
		return err
	}
	refusal := ipam.Refuse(ipam.PoolNotFound, "no IPPool and no InClusterIPPool %q can be used in namespace %q, asked for by %s, "+
		"but a %s has that name: to use it, write %s/%s into annotation %s%d", global.Name, namespace, want.AskedBy,
		global.Kind, global.Kind, global.Name, PoolsAnnotationPrefix, want.Device.Index)
	return ipam.WithShortage(refusal, ipam.Shortage{Pool: metal3.PoolNamed(global.Name), Needed: 1})
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
