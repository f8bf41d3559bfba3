package metal3

import (
	"fmt"
	"net/netip"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

var _ ipam.Reserver = Provider{}

// reservedKey is the key of spec.preAllocations of an address that is reserved. It is none that
// a migration writes, and takes off again.
func reservedKey(ip netip.Addr) string { return nobodys + "reserved-" + ip.String() }

// Withhold implements ipam.Reserver: metal3 gives an address of spec.preAllocations to the claim
// of that name alone, and no claim has this one. A pool that a migration has frozen is cut down to
// less, and metal3 keeps nothing for anybody that is not in its ranges: it is noted for afterwards.
func (Provider) Withhold(object client.Object, ip netip.Addr) error {
	pool, r, err := recordOf(object)
	if err != nil {
		return err
	}
	if r.Before != nil {
		original := r.original(pool)
		original.PreAllocations[reservedKey(ip)] = ipamv1.IPAddressStr(ip.String())
		return record{Before: &original}.keep(pool)
	}
	if pool.Spec.PreAllocations == nil {
		pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{}
	}
	pool.Spec.PreAllocations[reservedKey(ip)] = ipamv1.IPAddressStr(ip.String())
	return nil
}

// Return implements ipam.Reserver.
func (Provider) Return(object client.Object, ip netip.Addr) error {
	pool, r, err := recordOf(object)
	if err != nil {
		return err
	}
	delete(pool.Spec.PreAllocations, reservedKey(ip))
	if r.Before != nil {
		original := r.original(pool)
		delete(original.PreAllocations, reservedKey(ip))
		return record{Before: &original}.keep(pool)
	}
	if len(pool.Spec.PreAllocations) == 0 {
		pool.Spec.PreAllocations = nil
	}
	return nil
}

// Withholding implements ipam.Reserver.
func (Provider) Withholding(ip netip.Addr) string {
	return fmt.Sprintf("spec.preAllocations %s: %s", reservedKey(ip), ip)
}
