package contract

import (
	"net/netip"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

var _ ipam.Reserver = Provider{}

// Withhold implements ipam.Reserver. The provider's webhook refuses an address that is in use.
func (c Provider) Withhold(object client.Object, ip netip.Addr) error {
	return c.exclude(object, func(excluded []string) []string {
		if slices.Contains(excluded, ip.String()) {
			return excluded
		}
		return append(excluded, ip.String())
	})
}

// Return implements ipam.Reserver.
func (c Provider) Return(object client.Object, ip netip.Addr) error {
	return c.exclude(object, func(excluded []string) []string {
		return slices.DeleteFunc(excluded, func(text string) bool { return text == ip.String() })
	})
}

// Withholding implements ipam.Reserver.
func (Provider) Withholding(ip netip.Addr) string { return "spec.excludedAddresses " + ip.String() }

// exclude changes what a pool of the in-cluster provider excludes, but for what a migration has
// added to that.
func (c Provider) exclude(object client.Object, change func([]string) []string) error {
	m, err := c.migrated(object)
	if err != nil {
		return err
	}
	return setExcluded(m.Unstructured, slices.Concat(change(m.Excluded), m.added))
}
