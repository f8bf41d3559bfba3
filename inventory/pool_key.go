package inventory

import (
	"slices"

	"capv-static-ip.dev/allocator/ipam"
)

// PoolKey is a pool with its namespace, empty for one of all namespaces.
type PoolKey struct {
	Namespace string
	ipam.PoolReference
}

// String names the pool as commands take it.
func (k PoolKey) String() string {
	name := k.KindName() + "/" + k.Name
	if k.Namespace == "" {
		return name
	}
	return k.Namespace + "/" + name
}

// KindName is the kind, with its API group where the kind alone might be that of another.
func (k PoolKey) KindName() string {
	if k.APIGroup == "" || isKnownKind(k.PoolReference) {
		return k.Kind
	}
	return k.Kind + "." + k.APIGroup
}

// isKnownKind tells whether the kind alone says which API a pool is of.
func isKnownKind(pool ipam.PoolReference) bool {
	return slices.Contains([]string{"IPPool.ipam.metal3.io", "InClusterIPPool.ipam.cluster.x-k8s.io", "GlobalInClusterIPPool.ipam.cluster.x-k8s.io"},
		pool.Kind+"."+pool.APIGroup)
}
