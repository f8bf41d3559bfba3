package machine

import (
	"slices"
	"strconv"

	"capv-static-ip.dev/allocator/ipam"
)

// NewAsks are the asks that no earlier call has answered, each with the host
// name that is its own. Dropped are bindings of an earlier call whose address is
// on no device any more, and whose device wants it back.
func (m *Machine) NewAsks(asks []ipam.Ask) (fresh []ipam.Ask, dropped []ipam.Binding, err error) {
	for _, ask := range asks {
		held, isHeld := m.HeldFor(ask)
		if !isHeld {
			ask.Host = m.Name
			if len(m.Held)+len(fresh) > 0 {
				ask.Host += "-" + strconv.Itoa(ask.Device.Index)
			}
			if ask.Nth > 0 {
				ask.Host += "-" + strconv.Itoa(ask.Nth)
			}
			fresh = append(fresh, ask)
			continue
		}
		switch other := m.DeviceWith(held.Address.Addr()); {
		case other < 0:
			dropped = append(dropped, held)
		case other != ask.Device.Index:
			return nil, nil, RefuseChangeBehind(held)
		}
	}
	for _, b := range m.Held {
		if m.hasLost(b) {
			dropped = append(dropped, b)
		}
	}
	return fresh, dropped, nil
}

// hasLost tells whether a device has lost one of the addresses that an earlier call gave it,
// and kept another.
func (m *Machine) hasLost(b ipam.Binding) bool {
	i := b.Device.Index
	return m.DeviceWith(b.Address.Addr()) < 0 && i < len(m.Spec.Network.Devices) &&
		slices.ContainsFunc(m.Held, func(other ipam.Binding) bool {
			return other.Device.Index == i && hasAddress(m.Spec.Network.Devices[i], other.Address.Addr())
		})
}

// HeldFor is the binding by which an earlier call has answered an ask.
func (m *Machine) HeldFor(ask ipam.Ask) (ipam.Binding, bool) {
	i := slices.IndexFunc(m.Held, func(b ipam.Binding) bool { return b.Slot() == ask.Slot() })
	if i < 0 {
		return ipam.Binding{}, false
	}
	return m.Held[i], true
}

// RefuseChangeBehind is the Refusal of a machine whose device was given an address, and
// that a webhook behind this one has then changed, so that the address is not its own.
func RefuseChangeBehind(b ipam.Binding) error {
	return ipam.Refuse(ipam.DevicePinned, "device %d was given an address from %s %q, and a webhook that runs after this one has changed it or its place: "+
		"have that webhook add devices behind the others, and leave those that have an address", b.Device.Index, b.Pool.Kind, b.Pool.Name)
}
