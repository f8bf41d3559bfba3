package webhook

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator/ipam"
)

// update keeps bound devices bound. Its reads are the cache's.
func (h *Handler) update(ctx context.Context, req admission.Request) verdict {
	before, err := decodeMachine(req.OldObject.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	after, err := decodeMachine(req.Object.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	held, err := h.held(ctx, req.Namespace, before)
	if err != nil {
		return deny(err)
	}
	var warnings []string
	patch, err := patchFor(req.Object.Raw, func(doc document) error {
		pinned, err := pinBindings(before, after, held, doc)
		warnings = unserved(before, after, pinned)
		return err
	})
	if err != nil {
		return deny(err)
	}
	return verdict{patch: patch, warnings: warnings, unserved: warnings}
}

// held are the bindings of a living machine: those of its annotation, and those
// that only its addresses tell of. The annotation is a record that whoever may
// write machines may take away, and that goes by itself when a server-side apply
// drops the last annotation of its manager.
func (h *Handler) held(ctx context.Context, namespace string, m *machine) ([]ipam.Binding, error) {
	var held []ipam.Binding
	if annotated, err := m.bindings(); err == nil && annotated.Machine == m.Name {
		held = annotated.Bindings
	}
	identity := m.identity()
	identity.Namespace = namespace
	told, err := h.Allocator.Held(ctx, identity, m.UID)
	if err != nil {
		return nil, err
	}
	for _, b := range told {
		known := slices.ContainsFunc(held, func(other ipam.Binding) bool { return other.Address.Addr() == b.Address.Addr() })
		if i := m.deviceWith(b.Address.Addr()); i >= 0 && !known {
			held = append(held, m.asStored(b, i))
		}
	}
	return held, nil
}

// asStored completes a binding of which no more than the address is known by what
// stands on the device that has it.
func (m *machine) asStored(b ipam.Binding, index int) ipam.Binding {
	d := m.Spec.Network.Devices[index]
	for _, text := range d.IPAddrs {
		if stored := addressOf(text); stored.Addr() == b.Address.Addr() {
			b.Address = stored
		}
	}
	gateway := d.Gateway6
	if b.Address.Addr().Is4() {
		gateway = d.Gateway4
	}
	// One that does not parse is not one that was injected.
	b.Gateway, _ = netip.ParseAddr(gateway)
	b.Device, b.Nameservers, b.SearchDomains = deviceOf(d, index), d.Nameservers, d.SearchDomains
	return b
}

// pinBindings gives back to a machine what an update took from its bound
// devices, and returns the indexes of these. It returns a Refusal where the device
// itself is not what it was: an address never moves to another NIC. A device is
// found by its address: others may have been put before it since it was bound.
// Both objects are of one API version.
func pinBindings(before, after *machine, held []ipam.Binding, doc document) (pinned []int, err error) {
	for _, b := range held {
		i := before.boundTo(b)
		if i < 0 {
			continue
		}
		pinned = append(pinned, i)
		if err := pinBinding(before, after, b, i, doc); err != nil {
			return nil, err
		}
	}
	if !after.DeletionTimestamp.IsZero() || isMoving(after) || len(held) == 0 {
		return pinned, nil
	}
	text := ""
	if annotated, err := before.bindings(); err == nil && annotated.Machine == before.Name {
		text = before.Annotations[ipam.BindingsAnnotation]
	}
	return pinned, doc.hold(text)
}

// pinBinding is pinBindings for one binding and the index of its device.
func pinBinding(before, after *machine, b ipam.Binding, i int, doc document) error {
	if i >= len(after.Spec.Network.Devices) {
		return moved(b, i, "is gone")
	}
	held, now := before.Spec.Network.Devices[i], after.Spec.Network.Devices[i]
	if change := changed(held, now); change != "" {
		return moved(b, i, change)
	}
	if slices.Contains(now.IPAddrs, b.Address.String()) {
		return nil
	}
	if other := after.deviceWith(b.Address.Addr()); other >= 0 && other != i {
		return moved(b, i, fmt.Sprintf("has lost its address to device %d", other))
	}
	device, err := doc.device(i)
	if err != nil {
		return err
	}
	injectBinding(device, b)
	device["ipAddrs"] = anySlice(held.IPAddrs)
	return nil
}

// boundTo is the index of the device that has a binding's address: the one that
// the binding names, or any other. It is -1 if none has it.
func (m *machine) boundTo(b ipam.Binding) int {
	if i := b.Device.Index; i >= 0 && i < len(m.Spec.Network.Devices) && hasAddress(m.Spec.Network.Devices[i], b.Address.Addr()) {
		return i
	}
	return m.deviceWith(b.Address.Addr())
}

// unserved warns of devices that an update leaves without any source of addresses:
// CAPV stops at such a machine, and nothing is claimed for one that exists.
func unserved(before, after *machine, pinned []int) (warnings []string) {
	for i, d := range after.Spec.Network.Devices {
		had := i < len(before.Spec.Network.Devices) && eligible(before.Spec.Network.Devices[i])
		if eligible(d) && !had && !slices.Contains(pinned, i) {
			warnings = append(warnings, fmt.Sprintf("device %d stays without an address, because the machine exists already: "+
				"set dhcp4 or ipAddrs, or replace the machine", i))
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

func moved(b ipam.Binding, index int, change string) error {
	return ipam.Refuse(ipam.DevicePinned, "device %d %s, but holds %s from %s %q: "+
		"keep the device as it is, or replace the machine",
		index, change, b.Address, b.Pool.Kind, b.Pool.Name)
}

// isMoving tells whether clusterctl is about to delete the object here because
// it lives on in another management cluster.
func isMoving(m *machine) bool {
	_, moving := m.Annotations[clusterctlv1.DeleteForMoveAnnotation]
	return moving
}
