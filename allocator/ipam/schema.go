package ipam

import (
	"net/netip"
	"slices"
)

// What CAPV's API takes for a device (api/govmomi/v1beta2, NetworkDeviceSpec). The
// API server looks at it when an address has been given.
const (
	// maxAddressText is the longest address with prefix length (IPAddrs).
	maxAddressText = 39
	// maxIPText is the longest gateway or name server. One of IPv6 can have a zone
	// of any length.
	maxIPText = 64
	// maxDNSEntries bounds name servers and search domains each, maxDomainText the
	// text of a search domain.
	maxDNSEntries = 128
	maxDomainText = 1024
)

// CheckDNS refuses a pool that has more to say about name servers and search
// domains than a device can hold. It names the pool as sentences do.
func CheckDNS(pool string, nameservers, searchDomains []string) error {
	for _, list := range []struct {
		what    string
		entries []string
		longest int
	}{
		{"name server", nameservers, maxIPText},
		{"search domain", searchDomains, maxDomainText},
	} {
		if len(list.entries) > maxDNSEntries {
			return Refuse(PoolInvalid, "%s has %d %ss, of which CAPV takes %d for a device: shorten the list", pool, len(list.entries), list.what, maxDNSEntries)
		}
		if slices.ContainsFunc(list.entries, func(text string) bool { return len(text) > list.longest }) {
			return Refuse(PoolInvalid, "%s has a %s that is longer than the %d characters which CAPV takes: correct it", pool, list.what, list.longest)
		}
	}
	return nil
}

// checkGateway refuses a gateway that a device cannot hold.
func checkGateway(pool Pool, gateway netip.Addr) error {
	if len(gateway.String()) > maxIPText {
		return Unusable(pool, "its gateway is longer than the %d characters that CAPV takes", maxIPText)
	}
	return nil
}
