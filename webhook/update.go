package webhook

import (
	"context"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// update keeps bound devices bound. Its reads are the cache's, as far as the cache knows
// the template that a machine comes to belong to.
func (h *Handler) update(ctx context.Context, req admission.Request) verdict {
	before, err := machine.Decode(req.OldObject.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	after, err := machine.Decode(req.Object.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	held, err := h.held(ctx, req.Namespace, before)
	if err != nil {
		return deny(err)
	}
	var warnings []string
	patch, err := machine.PatchFor(req.Object.Raw, func(doc machine.Document) error {
		pinned, err := machine.Pin(before, after, held, doc)
		warnings = machine.Unserved(before, after, pinned)
		return err
	})
	if err != nil {
		return deny(err)
	}
	told, err := h.checkPools(ctx, req.Namespace, change{before: before, after: after, held: held})
	if err != nil {
		return deny(err)
	}
	return verdict{patch: patch, warnings: slices.Concat(warnings, told), unserved: warnings}
}

// change is an update of a machine, and what was bound before it.
type change struct {
	before, after *machine.Machine
	held          []ipam.Binding
}

// checkPools refuses an update by which a machine comes to belong to a template that
// asks for other pools. Stored, the machine would say that it is of the new template,
// and keep the address of the old one's pool. Refused, CAPI replaces it, or whoever
// reads why does. A template whose requests are refused in any case names no other
// pool: nothing can be made of it, and there is no more than a warning.
func (h *Handler) checkPools(ctx context.Context, namespace string, c change) (warnings []string, err error) {
	if len(c.held) == 0 || !machine.ChangesTemplate(c.before, c.after) {
		return nil, nil
	}
	asking := machine.Unbound(c.before, c.after, c.held)
	asking.Namespace = namespace
	asked, err := h.meant(ctx, asking)
	if refusal, refused := ipam.AsRefusal(err); refused {
		return []string{refusal.Message}, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, machine.CheckPools(c.before, c.held, asked)
}

// meant is what a machine asks for, with the pools from which it may be.
func (h *Handler) meant(ctx context.Context, m *machine.Machine) (meant []machine.Meant, err error) {
	asks, _, err := h.Demand.Asks(ctx, m)
	if err != nil {
		return nil, err
	}
	for _, ask := range asks {
		pools, err := h.Allocator.Meant(ctx, m.Identity(), ask)
		if err != nil {
			return nil, err
		}
		meant = append(meant, machine.Meant{Ask: ask, Pools: pools})
	}
	return meant, nil
}

// held are the bindings of a living machine: those of its annotation, and those
// that only its addresses tell of. The annotation is a record that whoever may
// write machines may take away, and that goes by itself when a server-side apply
// drops the last annotation of its manager.
func (h *Handler) held(ctx context.Context, namespace string, m *machine.Machine) ([]ipam.Binding, error) {
	var held []ipam.Binding
	if annotated, err := m.Bindings(); err == nil && annotated.Machine == m.Name {
		held = annotated.Bindings
	}
	identity := m.Identity()
	identity.Namespace = namespace
	told, err := h.Allocator.Held(ctx, identity, m.UID)
	if err != nil {
		return nil, err
	}
	for _, b := range told {
		known := slices.ContainsFunc(held, func(other ipam.Binding) bool { return other.Address.Addr() == b.Address.Addr() })
		if i := m.DeviceWith(b.Address.Addr()); i >= 0 && !known {
			held = append(held, m.AsStored(b, i))
		}
	}
	return held, nil
}
