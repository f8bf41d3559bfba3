package machine

import (
	"fmt"
	"net/netip"
	"slices"

	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/ipam"
)

// Pin gives back to a machine what an update took from its bound
// devices, and returns the indexes of these. It returns a Refusal where the device
// itself is not what it was: an address never moves to another NIC. A device is
// found by its address: others may have been put before it since it was bound.
// Both objects are of one API version.
func Pin(before, after *Machine, held []ipam.Binding, doc Document) (pinned []int, err error) {
	onDevice := map[int][]ipam.Binding{}
	for _, b := range held {
		i := before.boundTo(b)
		if i < 0 {
			// The address was on no device before this update, which takes nothing away.
			continue
		}
		pinned = append(pinned, i)
		if err := pinBinding(before, after, b, i, doc); err != nil {
			return nil, err
		}
		onDevice[i] = append(onDevice[i], b)
	}
	if err := pinBeside(after, onDevice, doc); err != nil {
		return nil, err
	}
	if !after.DeletionTimestamp.IsZero() || isMoving(after) || len(held) == 0 {
		// Nothing can be added to a machine that goes, and one that lives on elsewhere
		// must not be kept here.
		return pinned, nil
	}
	// The annotation is given back as it was, and only if it was this machine's.
	text := ""
	if annotated, err := before.Bindings(); err == nil && annotated.Machine == before.Name {
		text = before.Annotations[ipam.BindingsAnnotation]
	}
	return pinned, doc.addMarks(text)
}

// pinBinding is Pin for one binding and the index of its device.
func pinBinding(before, after *Machine, b ipam.Binding, i int, doc Document) error {
	// A device that was taken away is not given back, but the update refused.
	if i >= len(after.Spec.Network.Devices) {
		return refuseChange(b, i, "is gone")
	}
	held, now := before.Spec.Network.Devices[i], after.Spec.Network.Devices[i]
	// What makes it another NIC, or gives it addresses from elsewhere, is not mended,
	// but refused.
	if change := changed(held, now); change != "" {
		return refuseChange(b, i, change)
	}
	// The device has its address, as it was.
	if slices.Contains(now.IPAddrs, b.Address.String()) {
		return nil
	}
	// To give the address back here would put it on two devices.
	if other := after.DeviceWith(b.Address.Addr()); other >= 0 && other != i {
		return refuseChange(b, i, fmt.Sprintf("has lost its address to device %d", other))
	}
	device, err := doc.device(i)
	if err != nil {
		return err
	}
	addresses, _ := device["ipAddrs"].([]any)
	device["ipAddrs"] = withAddress(addresses, held.IPAddrs, b.Address.Addr())
	return nil
}

// pinBeside gives back what stands beside the addresses of devices that an update took an
// address from. A device may have several bindings, whose name servers it has together.
func pinBeside(after *Machine, onDevice map[int][]ipam.Binding, doc Document) error {
	for i, bindings := range onDevice {
		hasAll := !slices.ContainsFunc(bindings, func(b ipam.Binding) bool {
			return !slices.Contains(after.Spec.Network.Devices[i].IPAddrs, b.Address.String())
		})
		if hasAll {
			continue
		}
		device, err := doc.device(i)
		if err != nil {
			return err
		}
		injectBeside(device, inOrder(bindings))
	}
	return nil
}

// withAddress is what an update makes of a device's addresses, with the bound one
// as it was before. Those beside it are the user's own, who may change them and
// take them away: nobody checks whether they are still free, so that none is given
// back. An entry that stands where the bound one was is what the update made of it.
func withAddress(now []any, before []string, ip netip.Addr) []any {
	place := slices.IndexFunc(before, func(text string) bool { return isAddress(text, ip) })
	bound := before[place]
	made := slices.IndexFunc(now, func(entry any) bool { text, _ := entry.(string); return isAddress(text, ip) })
	if made < 0 && len(now) == len(before) {
		if text, _ := now[place].(string); !slices.Contains(before, text) {
			made = place
		}
	}
	if made < 0 {
		return slices.Insert(slices.Clone(now), min(place, len(now)), any(bound))
	}
	now = slices.Clone(now)
	now[made] = bound
	return now
}

// boundTo is the index of the device that has a binding's address: the one that
// the binding names, or any other. It is -1 if none has it.
func (m *Machine) boundTo(b ipam.Binding) int {
	if i := b.Device.Index; i >= 0 && i < len(m.Spec.Network.Devices) && hasAddress(m.Spec.Network.Devices[i], b.Address.Addr()) {
		return i
	}
	return m.DeviceWith(b.Address.Addr())
}

// Unserved warns of devices that an update leaves without any source of addresses:
// CAPV stops at such a machine, and nothing is claimed for a part of one.
func Unserved(before, after *Machine, pinned []int) (warnings []string) {
	for i, d := range after.Spec.Network.Devices {
		had := i < len(before.Spec.Network.Devices) && Eligible(before.Spec.Network.Devices[i])
		if Eligible(d) && !had && !slices.Contains(pinned, i) {
			warnings = append(warnings, fmt.Sprintf("device %d has no source of addresses, and is given none because others of the machine hold theirs already: "+
				"CAPV waits for one, and does nothing else for the machine until then; set dhcp4 or ipAddrs, or replace the machine", i))
		}
	}
	return warnings
}

// changed says in what a device is another one than before, or what now gives
// it addresses beside its binding. It is empty if nothing does.
func changed(before, after infrav1.NetworkDeviceSpec) string {
	switch {
	case before.NetworkName != after.NetworkName:
		return "has another networkName"
	case before.DeviceName != after.DeviceName:
		return "has another deviceName"
	case before.MACAddr != after.MACAddr:
		return "has another macAddr"
	case hasDHCP(after) && !hasDHCP(before):
		return "gains DHCP"
	case len(after.AddressesFromPools) > 0 && len(before.AddressesFromPools) == 0:
		return "gains addressesFromPools"
	}
	return ""
}

// refuseChange is the Refusal of an update that changes a bound device.
func refuseChange(b ipam.Binding, index int, change string) error {
	return ipam.Refuse(ipam.DevicePinned, "device %d %s, but holds %s from %s %q: "+
		"keep the device as it is, or replace the machine",
		index, change, b.Address, b.Pool.Kind, b.Pool.Name)
}

// isMoving tells whether clusterctl is about to delete the object here because
// it lives on in another management cluster.
func isMoving(m *Machine) bool {
	_, moving := m.Annotations[clusterctlv1.DeleteForMoveAnnotation]
	return moving
}
