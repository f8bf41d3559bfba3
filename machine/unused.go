package machine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
)

// unused warns of requests that no device can use, because it has another source
// of addresses and keeps that. A request for a device that does not exist is
// refused: whoever wrote it waits for an address that no device would get.
func unused(asked []Asker, m *Machine) (warnings []string, err error) {
	for _, by := range asked {
		if by.ForMany {
			continue
		}
		more, err := unusedAnnotations(by, m)
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, more...)
	}
	half := halfServed(asked, m)
	if len(half) == 0 {
		warnings = append(warnings, unusedLabels(asked, m)...)
	}
	return append(warnings, half...), nil
}

func unusedAnnotations(by Asker, m *Machine) (warnings []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(by.GetAnnotations())) {
		key, ok := deviceIn(name)
		if !ok {
			continue
		}
		switch i := m.deviceNamed(key); {
		case i < 0:
			return nil, ipam.Refuse(ipam.DeviceNotFound, "annotation %s of %s is for a device that the machine does not have: "+
				"name a device by its index or its deviceName; %s", name, by.Name, m.devices())
		case !m.isServed(m.Spec.Network.Devices[i]):
			warnings = append(warnings, fmt.Sprintf("annotation %s of %s is not used: device %d has DHCP, addresses or pools of its own, or skipIPAllocation",
				name, by.Name, i))
		}
	}
	return warnings, nil
}

// deviceIn is the device that an annotation of ours is for, false if it is for none.
func deviceIn(annotation string) (key string, ok bool) {
	for _, prefix := range []string{ipam.PoolsAnnotationPrefix, ipam.GatewayAnnotationPrefix} {
		if key, ok := strings.CutPrefix(annotation, prefix); ok {
			return key, true
		}
	}
	return "", false
}

// unusedLabels warns of labels, which are for all devices, where no device at all
// waits for an address. Where some do, the others are left out on purpose.
func unusedLabels(asked []Asker, m *Machine) (warnings []string) {
	if slices.ContainsFunc(m.Spec.Network.Devices, m.isServed) {
		return nil
	}
	reason := "each device has DHCP, addresses or pools of its own, or skipIPAllocation"
	if len(m.Spec.Network.Devices) == 0 {
		reason = "the machine lists no devices, and those of a failure domain are not given addresses; list them in spec.network.devices"
	}
	for _, by := range asked {
		for _, label := range by.labels() {
			warnings = append(warnings, fmt.Sprintf("label %s of %s is not used: %s", label, by.Name, reason))
		}
	}
	return warnings
}

// halfServed warns of devices that have addresses of IPv6 from elsewhere and were
// meant, by a label, to get one of IPv4 beside it.
func halfServed(asked []Asker, m *Machine) (warnings []string) {
	for i, d := range m.Spec.Network.Devices {
		has := onlyIPv6(d)
		if has == "" || m.isServed(d) {
			continue
		}
		found, err := firstAnswer(asked, DeviceOf(d, i))
		if err != nil || found == nil || found.from == nil {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("device %d gets no address by %s: it has %s, and only devices with neither DHCP nor ipAddrs are served; "+
			"set dhcp4 or an IPv4 address in ipAddrs if it needs one, or leave IPv6 to the pool", i, found.by, has))
	}
	return warnings
}

// onlyIPv6 says from where a device has addresses of IPv6, if it has none of IPv4
// and its user has not said that this is all that it needs.
func onlyIPv6(d infrav1.NetworkDeviceSpec) string {
	ipv4 := slices.ContainsFunc(d.IPAddrs, func(text string) bool { return addressOf(text).Addr().Unmap().Is4() })
	switch {
	case isTrue(d.DHCP4), ipv4, len(d.AddressesFromPools) > 0, isTrue(d.SkipIPAllocation):
		return ""
	case isTrue(d.DHCP6):
		return "DHCP for IPv6"
	case len(d.IPAddrs) > 0:
		return "IPv6 addresses"
	}
	return ""
}

// DefaultRoutes warns of devices that are each given a default route of the same
// family: the VM answers by one of them, whichever the packets came in by.
func DefaultRoutes(m *Machine, injected []ipam.Binding) (warnings []string) {
	for _, family := range []string{"IPv4", "IPv6"} {
		var routes []string
		ours := false
		for i, d := range m.Spec.Network.Devices {
			own := d.Gateway6
			if family == "IPv4" {
				own = d.Gateway4
			}
			given := own == "" && slices.ContainsFunc(injected, func(b ipam.Binding) bool {
				return b.Device.Index == i && b.Gateway.IsValid() && b.Gateway.Is4() == (family == "IPv4")
			})
			if given || own != "" {
				routes = append(routes, m.describe(i))
			}
			ours = ours || given
		}
		if ours && len(routes) > 1 {
			warnings = append(warnings, fmt.Sprintf("devices %s each get a default route for %s: "+
				"for all but one of them name a pool without a gateway, or set annotation %s<device> to %q", strings.Join(routes, " and "), family,
				ipam.GatewayAnnotationPrefix, ipam.NoGateway))
		}
	}
	return warnings
}
