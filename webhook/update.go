package webhook

import (
	"fmt"
	"slices"

	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator"
)

// pinBindings gives back to a machine what an update took from its bound
// devices. It returns a Refusal where the device itself is not what it was: an
// address never moves to another NIC. Both objects are of one API version.
func pinBindings(before, after *machine, bindings allocator.Bindings, doc document) error {
	for _, b := range bindings.Bindings {
		i := b.Device.Index
		if i < 0 || i >= len(before.Spec.Network.Devices) {
			continue
		}
		held := before.Spec.Network.Devices[i]
		if !slices.Contains(held.IPAddrs, b.Address.String()) {
			continue
		}
		if i >= len(after.Spec.Network.Devices) {
			return moved(b, "is gone")
		}
		now := after.Spec.Network.Devices[i]
		if change := changed(held, now); change != "" {
			return moved(b, change)
		}
		if slices.Contains(now.IPAddrs, b.Address.String()) {
			continue
		}
		if other := holderOf(after, b); other >= 0 {
			return moved(b, fmt.Sprintf("has lost its address to device %d", other))
		}
		device, err := doc.device(i)
		if err != nil {
			return err
		}
		injectBinding(device, b)
		device["ipAddrs"] = anySlice(held.IPAddrs)
	}
	if !after.DeletionTimestamp.IsZero() || isMoving(after) {
		return nil
	}
	return doc.hold(before.Annotations[allocator.BindingsAnnotation])
}

// holderOf is the index of the device with the binding's address, -1 if none
// has it.
func holderOf(m *machine, b allocator.Binding) int {
	return slices.IndexFunc(m.Spec.Network.Devices, func(d infrav1.NetworkDeviceSpec) bool {
		return slices.Contains(d.IPAddrs, b.Address.String())
	})
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

func moved(b allocator.Binding, change string) error {
	return allocator.Refuse(allocator.DevicePinned, "device %d %s, but holds %s from %s %q: "+
		"keep the device as it is, or replace the machine",
		b.Device.Index, change, b.Address, b.Pool.Kind, b.Pool.Name)
}

// isMoving tells whether clusterctl is about to delete the object here because
// it lives on in another management cluster.
func isMoving(m *machine) bool {
	_, moving := m.Annotations[clusterctlv1.DeleteForMoveAnnotation]
	return moving
}
