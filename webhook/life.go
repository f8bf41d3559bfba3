package webhook

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator/ipam"
)

// readmit decides about a create that brings bindings, or a life, along: that of
// a machine which had a life before, or of one that this webhook was asked about
// a moment ago, in the same request.
func (h *Handler) readmit(ctx context.Context, req admission.Request, m *machine) verdict {
	bindings, err := m.bindings()
	if err == nil && bindings.Machine == m.Name && !m.hasVM() {
		underWay, err := h.Allocator.IsUnderWay(ctx, m.identity(), bindings.Bindings)
		if err != nil {
			return deny(err)
		}
		if underWay {
			m.held = bindings.Bindings
			return h.serve(ctx, req, m)
		}
	}
	return h.leave(ctx, req, m)
}

// leave admits a machine that had a life before as it is: its addresses are in
// use. Only a copy of a living machine's manifest is denied. What is written in the
// annotation of a machine that has a VM keeps no machine out: it is no authority.
func (h *Handler) leave(ctx context.Context, req admission.Request, m *machine) verdict {
	var warnings []string
	bindings, err := m.bindings()
	switch {
	case err != nil && !m.hasVM():
		return deny(err)
	case err != nil:
		warnings = append(warnings, err.Error())
	}
	if err := h.Allocator.CheckUnshared(ctx, m.identity(), bindings); err != nil {
		return deny(err)
	}
	told, err := h.judgeShared(ctx, req, m)
	if err != nil {
		return deny(err)
	}
	warnings = append(warnings, told...)
	if m.isOurs() && !m.hasVM() && slices.ContainsFunc(m.Spec.Network.Devices, eligible) {
		warnings = append(warnings, fmt.Sprintf("nothing is claimed for a machine that brings annotation %s along: "+
			"remove it, so that addresses are claimed for its devices", ipam.BindingsAnnotation))
	}
	return allow(warnings...)
}

// newWants are the wants that no earlier call has answered, each with the host
// name that is its own. Dropped are bindings of an earlier call whose address is
// on no device any more, and whose device wants it back.
func (m *machine) newWants(wants []ipam.Want) (fresh []ipam.Want, dropped []ipam.Binding, err error) {
	for _, want := range wants {
		i := slices.IndexFunc(m.held, func(b ipam.Binding) bool { return b.Device.Index == want.Device.Index })
		if i < 0 {
			want.Host = m.Name
			if len(m.held)+len(fresh) > 0 {
				want.Host += "-" + strconv.Itoa(want.Device.Index)
			}
			fresh = append(fresh, want)
			continue
		}
		if other := m.deviceWith(m.held[i].Address.Addr()); other >= 0 || m.held[i].Pool != want.Pool {
			return nil, nil, ipam.Refuse(ipam.DevicePinned, "device %d was given an address from %s %q, and a webhook that runs after this one has changed it or its place: "+
				"have that webhook add devices behind the others, and leave those that have an address", want.Device.Index, m.held[i].Pool.Kind, m.held[i].Pool.Name)
		}
		dropped = append(dropped, m.held[i])
	}
	return fresh, dropped, nil
}
