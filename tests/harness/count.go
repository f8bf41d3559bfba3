package harness

import (
	"context"
	"fmt"

	"go4.org/netipx"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// PoolCount is how many addresses of a pool there are by what they are for.
type PoolCount struct{ Used, Cooling, Free int }

// CountPool counts the addresses of a pool in a namespace, one of the range by one. Nothing
// but the ranges of the pool says that an address is free.
func CountPool(ctx context.Context, c client.Reader, namespace string, pool ipam.PoolReference, within netipx.IPRange) (PoolCount, error) {
	inventory, err := readInventory(ctx, c, namespace)
	if err != nil {
		return PoolCount{}, fmt.Errorf("reading the state of namespace %q: %w", namespace, err)
	}
	var count PoolCount
	for ip := within.From(); ip.Compare(within.To()) <= 0; ip = ip.Next() {
		object := inventory.addressByPlace[place{namespace, pool, ip}]
		switch {
		case object == nil && inventory.poolOf(namespace, ip) == pool:
			count.Free++
		case object == nil:
		case ipam.IsReleased(object):
			count.Cooling++
		default:
			count.Used++
		}
	}
	return count, nil
}
