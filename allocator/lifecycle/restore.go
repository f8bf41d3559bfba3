package lifecycle

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// restore gives a living machine its annotation and finalizer back, if they
// were lost or never there (the machines of the static IP adapter): for each
// claim of its own whose address is on one of its devices.
func (r *Reconciler) restore(ctx context.Context, s *state) error {
	if !s.exists || s.deleting || s.moving {
		return nil
	}
	if err := r.renameAll(ctx, s); err != nil {
		return err
	}
	if err := r.rejoin(ctx, s); err != nil || !s.lacksMarks() {
		return err
	}
	stored := &capi.VSphereMachine{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(s.object), stored); err != nil {
		return client.IgnoreNotFound(err)
	}
	if stored.UID != s.uid || !stored.DeletionTimestamp.IsZero() {
		return nil
	}
	bindings := ipam.Bindings{Machine: s.name}
	for _, h := range s.holdings {
		if h.annotated == nil {
			h.annotated = restored(stored, s.machineState, h)
		}
		if h.annotated != nil {
			bindings.Bindings = append(bindings.Bindings, *h.annotated)
		}
	}
	if len(bindings.Bindings) == 0 {
		return nil
	}
	text, err := bindings.Encode()
	if err != nil {
		return err
	}
	before := s.object.DeepCopy()
	controllerutil.AddFinalizer(s.object, ipam.ReleaseFinalizer)
	metav1.SetMetaDataAnnotation(&s.object.ObjectMeta, ipam.BindingsAnnotation, text)
	if equality.Semantic.DeepEqual(before, s.object) {
		return nil
	}
	if err := r.patch(ctx, s.object, before); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Restored the finalizer and the bindings annotation", "bindings", len(bindings.Bindings))
	return nil
}

// renameAll writes into the annotation the names of claims that it has otherwise.
func (r *Reconciler) renameAll(ctx context.Context, s *state) error {
	if slices.ContainsFunc(s.holdings, func(h *holding) bool { return h.paused }) {
		return nil
	}
	for _, b := range s.renamed {
		if err := r.rename(ctx, s, b.Binding, b.claim); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) lacksMarks() bool {
	return slices.ContainsFunc(s.holdings, func(h *holding) bool {
		if h.paused || h.isOfEarlierMachine(s.machineState) {
			return false
		}
		return h.annotated == nil && h.claim != nil && h.address != nil && (h.belongsTo(s.machineState) || isOffered(h.claim, s.name)) ||
			h.annotated != nil && !controllerutil.ContainsFinalizer(s.object, ipam.ReleaseFinalizer)
	})
}

// rejoin gives a binding that has lost its claim the one that came back with its
// address: the provider gave that to a claim for another machine, and whoever
// found it in use has marked the claim for the machine that uses it.
func (r *Reconciler) rejoin(ctx context.Context, s *state) error {
	for _, h := range s.holdings {
		found := s.foundFor(h)
		if found == nil {
			continue
		}
		if err := r.confirm(ctx, s); err != nil {
			return err
		}
		if h.claim != nil {
			if _, err := r.deleteClaim(ctx, h.claim.Object); err != nil {
				return fmt.Errorf("deleting claim %s, which failed: %w", klog.KObj(h.claim), err)
			}
		}
		if err := r.rename(ctx, s, *h.annotated, found.claim.GetName()); err != nil {
			return err
		}
		h.annotated.Claim, h.claim, h.address = found.claim.GetName(), found.claim, found.address
		s.holdings = slices.DeleteFunc(s.holdings, func(other *holding) bool { return other == found })
		klog.FromContext(ctx).Info("Found a lost address on another claim", "claim", klog.KObj(found.claim), "address", h.annotated.Address)
		return nil
	}
	return nil
}

// foundFor is the holding of a claim that is marked for the machine, is bound to
// the address that another binding of it has lost, and belongs to none.
func (s *state) foundFor(lost *holding) *holding {
	if lost.annotated == nil || lost.address != nil || lost.paused || lost.claim != nil && lost.claim.Failure == "" {
		return nil
	}
	for _, h := range s.holdings {
		if h.annotated != nil || h.address == nil || !h.isClaimed() || h.paused || h.claim.Address != h.address.GetName() {
			continue
		}
		candidate := holding{annotated: lost.annotated, address: h.address}
		if isOrphan(h.claim, s.name) && h.claim.Pool == lost.annotated.Pool && candidate.isAnnotatedAddress() {
			return h
		}
	}
	return nil
}

// rename writes the name of another claim of a binding into the machine's annotation.
func (r *Reconciler) rename(ctx context.Context, s *state, binding ipam.Binding, claim string) error {
	bindings, err := ipam.ParseBindings(s.object.Annotations[ipam.BindingsAnnotation])
	if err != nil {
		return err
	}
	for i, b := range bindings.Bindings {
		if b.Pool == binding.Pool && b.Claim == binding.Claim {
			bindings.Bindings[i].Claim = claim
		}
	}
	text, err := bindings.Encode()
	if err != nil {
		return err
	}
	before := s.object.DeepCopy()
	metav1.SetMetaDataAnnotation(&s.object.ObjectMeta, ipam.BindingsAnnotation, text)
	return r.patch(ctx, s.object, before)
}

// restored is the binding that a claim and a device agree upon, nil if none.
func restored(stored *capi.VSphereMachine, m machineState, h *holding) *ipam.Binding {
	if h.claim == nil || h.address == nil || h.sharedWith != "" || !h.claim.GetDeletionTimestamp().IsZero() {
		return nil
	}
	if !h.belongsTo(m) && !isOffered(h.claim, m.name) {
		return nil
	}
	binding, ok := machine.Injected(stored.Spec.Network.Devices, *h.claim, capi.ParseAddress(h.address.IP))
	if !ok {
		return nil
	}
	return &binding
}
