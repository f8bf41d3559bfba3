package machine

import (
	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/capi"
)

// Effective are the devices that CAPV makes of a machine's devices in a failure domain:
// by their position, each with what the domain says of it. What the domain says beyond
// the machine's devices becomes further ones. It is a copy of what CAPV does on each
// reconcile with the VSphereVM (createOrPatchVSphereVM), and never with the machine.
func Effective(devices []infrav1.NetworkDeviceSpec, domain capi.Topology) []infrav1.NetworkDeviceSpec {
	devices = laidOver(devices, domain.Networks, func(d *infrav1.NetworkDeviceSpec, name string) { d.NetworkName = name })
	return laidOver(devices, domain.NetworkConfigurations, configure)
}

// laidOver is a copy of devices with entries of a failure domain laid over them.
func laidOver[T any](devices []infrav1.NetworkDeviceSpec, entries []T, lay func(*infrav1.NetworkDeviceSpec, T)) []infrav1.NetworkDeviceSpec {
	effective := make([]infrav1.NetworkDeviceSpec, max(len(devices), len(entries)))
	copy(effective, devices)
	for i, entry := range entries {
		lay(&effective[i], entry)
	}
	return effective
}

// configure sets on a device what a failure domain says of it.
func configure(d *infrav1.NetworkDeviceSpec, c capi.NetworkConfiguration) {
	if c.NetworkName != "" {
		d.NetworkName = c.NetworkName
	}
	if c.DHCP4 != nil {
		d.DHCP4 = c.DHCP4
	}
	if c.DHCP6 != nil {
		d.DHCP6 = c.DHCP6
	}
	if len(c.Nameservers) > 0 {
		d.Nameservers = c.Nameservers
	}
	if len(c.SearchDomains) > 0 {
		d.SearchDomains = c.SearchDomains
	}
	if len(c.AddressesFromPools) > 0 {
		d.AddressesFromPools = make([]infrav1.IPPoolReference, len(c.AddressesFromPools))
		for i, pool := range c.AddressesFromPools {
			d.AddressesFromPools[i] = infrav1.IPPoolReference(pool)
		}
	}
}
