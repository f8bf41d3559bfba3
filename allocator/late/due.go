package late

import (
	"slices"

	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// isDue tells whether a machine may be given addresses now, if it asks for any. Before
// a Machine owns it, and CAPV's finalizer is on it, others write it by what they have
// read, and a write in between makes them fail, or is undone. With a provider ID its VM
// is there; with marks of ours it was served before, and a part of its addresses is
// never added.
func isDue(m *capi.VSphereMachine) bool {
	return isReady(m) && slices.ContainsFunc(m.Spec.Network.Devices, machine.Waits)
}

// mayBeDue tells whether a machine may be given addresses now, if its failure domain takes
// DHCP away from its devices.
func mayBeDue(m *capi.VSphereMachine) bool {
	return isReady(m) && slices.ContainsFunc(m.Spec.Network.Devices, func(d capi.Device) bool {
		d.DHCP4, d.DHCP6 = nil, nil
		return machine.Waits(d)
	})
}

// isReady is isDue whatever the devices.
func isReady(m *capi.VSphereMachine) bool {
	_, owned := machine.OwnerOf(m)
	_, bound := m.Annotations[ipam.BindingsAnnotation]
	switch {
	case !owned, bound, m.Spec.ProviderID != "", !m.DeletionTimestamp.IsZero():
		return false
	case !controllerutil.ContainsFinalizer(m, infrav1.MachineFinalizer), controllerutil.ContainsFinalizer(m, ipam.ReleaseFinalizer):
		return false
	case annotations.HasPaused(m), capi.IsMoving(m):
		return false
	}
	return true
}

// mayHaveLeft tells whether a machine that is not due has no use for what may have been
// claimed for it when it was: it has addresses, or a VM, or no device waits any more.
func mayHaveLeft(m *capi.VSphereMachine) bool {
	_, bound := m.Annotations[ipam.BindingsAnnotation]
	isSettled := bound || m.Spec.ProviderID != "" || isReady(m)
	return isSettled && m.DeletionTimestamp.IsZero() && !annotations.HasPaused(m) && !capi.IsMoving(m)
}

// isPartlyBound tells whether a device has an address that is protected for the
// machine, although no mark on the machine says so.
func isPartlyBound(m *machine.Machine, held []ipam.Binding) bool {
	return slices.ContainsFunc(held, func(b ipam.Binding) bool { return m.DeviceWith(b.Address.Addr()) >= 0 })
}
