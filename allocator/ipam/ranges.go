package ipam

import (
	"go4.org/netipx"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Ranged is a provider that can tell which addresses a pool hands out.
type Ranged interface {
	// Ranges are all addresses of a pool, and those of them that it gives nobody. It is
	// false for a pool that does not say.
	Ranges(pool client.Object) (all, reserved *netipx.IPSet, ok bool)
}

// Ranges are those of a provider's pool, see Ranged.
func Ranges(provider Provider, pool client.Object) (all, reserved *netipx.IPSet, ok bool) {
	ranged, ok := provider.(Ranged)
	if !ok {
		return nil, nil, false
	}
	return ranged.Ranges(pool)
}
