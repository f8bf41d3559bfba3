package machine

import (
	"slices"
	"strconv"

	"capv-static-ip.dev/allocator/ipam"
)

// NewWants are the wants that no earlier call has answered, each with the host
// name that is its own. Dropped are bindings of an earlier call whose address is
// on no device any more, and whose device wants it back.
func (m *Machine) NewWants(wants []ipam.Want) (fresh []ipam.Want, dropped []ipam.Binding, err error) {
	for _, want := range wants {
		i := slices.IndexFunc(m.Held, func(b ipam.Binding) bool { return b.Device.Index == want.Device.Index })
		if i < 0 {
			want.Host = m.Name
			if len(m.Held)+len(fresh) > 0 {
				want.Host += "-" + strconv.Itoa(want.Device.Index)
			}
			fresh = append(fresh, want)
			continue
		}
		if other := m.DeviceWith(m.Held[i].Address.Addr()); other >= 0 || m.Held[i].Pool != want.Pool {
			return nil, nil, ipam.Refuse(ipam.DevicePinned, "device %d was given an address from %s %q, and a webhook that runs after this one has changed it or its place: "+
				"have that webhook add devices behind the others, and leave those that have an address", want.Device.Index, m.Held[i].Pool.Kind, m.Held[i].Pool.Name)
		}
		dropped = append(dropped, m.Held[i])
	}
	return fresh, dropped, nil
}
