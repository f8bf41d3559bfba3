package webhook

import (
	"context"
	"fmt"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// readmit decides about a create that brings bindings, or a life, along: that of
// a machine which had a life before, or of one that this webhook was asked about
// a moment ago, in the same request.
func (h *Handler) readmit(ctx context.Context, req admission.Request, m *machine.Machine) verdict {
	bindings, err := m.Bindings()
	if err == nil && bindings.Machine == m.Name && !m.HasVM() {
		underWay, err := h.Allocator.IsUnderWay(ctx, m.Identity(), bindings.Bindings)
		if err != nil {
			return deny(err)
		}
		if underWay {
			m.Held = bindings.Bindings
			return h.serve(ctx, req, m)
		}
	}
	return h.admitUnchanged(ctx, req, m)
}

// admitUnchanged admits a machine that had a life before as it is: its addresses are in
// use. Only a copy of a living machine's manifest is denied. What is written in the
// annotation of a machine that has a VM keeps no machine out: it is no authority.
func (h *Handler) admitUnchanged(ctx context.Context, req admission.Request, m *machine.Machine) verdict {
	var warnings []string
	bindings, err := m.Bindings()
	switch {
	case err != nil && !m.HasVM():
		return deny(err)
	case err != nil:
		warnings = append(warnings, err.Error())
	}
	if err := h.Allocator.CheckNotCopied(ctx, m.Identity(), bindings); err != nil {
		return deny(err)
	}
	told, err := h.judgeShared(ctx, req, m)
	if err != nil {
		return deny(err)
	}
	warnings = append(warnings, told...)
	if m.IsOurs() && !m.HasVM() && slices.ContainsFunc(m.Spec.Network.Devices, machine.Eligible) {
		warnings = append(warnings, fmt.Sprintf("nothing is claimed for a machine that brings annotation %s along: "+
			"remove it, so that addresses are claimed for its devices", ipam.BindingsAnnotation))
	}
	return allow(warnings...)
}
