package machine

import (
	"net/netip"
	"slices"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// Injected is Inject read backwards: the binding of a claim whose address is on one
// of the devices, false if it is on none. The device is found by the address, since
// others may have been put before it. What was injected beside the address is no
// longer known, so that all of the device's gateway, name servers and search domains
// count as injected.
func Injected(devices []capi.Device, claim ipam.Claim, ip netip.Addr) (ipam.Binding, bool) {
	i := slices.IndexFunc(devices, func(d capi.Device) bool { return entryOf(d.IPAddrs, ip).IsValid() })
	if i < 0 || !ip.IsValid() {
		return ipam.Binding{}, false
	}
	return readBack(devices[i], i, ipam.Binding{Pool: claim.Pool, Claim: claim.GetName(), Address: entryOf(devices[i].IPAddrs, ip)}), true
}

// AsStored completes a binding of which no more than the address is known by what
// stands on the device that has it.
func (m *Machine) AsStored(b ipam.Binding, index int) ipam.Binding {
	d := m.Spec.Network.Devices[index]
	if stored := entryOf(d.IPAddrs, b.Address.Addr()); stored.IsValid() {
		b.Address = stored
	}
	return readBack(capi.Device{
		NetworkName: d.NetworkName, DeviceName: d.DeviceName, Gateway4: d.Gateway4, Gateway6: d.Gateway6,
		Nameservers: d.Nameservers, SearchDomains: d.SearchDomains,
	}, index, b)
}

// entryOf is the entry of ipAddrs that is this address, with its prefix length.
func entryOf(ipAddrs []string, ip netip.Addr) netip.Prefix {
	for _, text := range ipAddrs {
		if entry, err := netip.ParsePrefix(text); err == nil && entry.Addr().Unmap() == ip.Unmap() {
			return entry
		}
	}
	return netip.Prefix{}
}

// readBack takes what stands beside an address on its device into the binding.
func readBack(d capi.Device, index int, b ipam.Binding) ipam.Binding {
	gateway := d.Gateway6
	if b.Address.Addr().Is4() {
		gateway = d.Gateway4
	}
	// One that does not parse is not one that was injected.
	b.Gateway, _ = netip.ParseAddr(gateway)
	b.Device = ipam.Device{Index: index, DeviceName: d.DeviceName, NetworkName: d.NetworkName}
	b.Nameservers, b.SearchDomains = d.Nameservers, d.SearchDomains
	return b
}
