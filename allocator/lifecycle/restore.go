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
)

// restore gives a living machine its annotation and finalizer back, if they
// were lost or never there (the machines of the static IP adapter).
func (r *Reconciler) restore(ctx context.Context, s *state) error {
	todo := decideMarks(s)
	for _, b := range todo.rename {
		if err := r.rename(ctx, s, b.Binding, b.claim); err != nil {
			return err
		}
	}
	if todo.found != nil {
		if err := r.rejoin(ctx, s, todo.lost, todo.found); err != nil {
			return err
		}
	}
	if !todo.rewrite {
		return nil
	}
	// What is on the machine's devices by now decides what is written on it.
	stored := &capi.VSphereMachine{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(s.object), stored); err != nil {
		return client.IgnoreNotFound(err)
	}
	if stored.UID != s.uid || !stored.DeletionTimestamp.IsZero() {
		return nil
	}
	return r.rewrite(ctx, s, restoredBindings(stored, s))
}

// rewrite writes the finalizer, and these bindings, on the machine, if there are any.
func (r *Reconciler) rewrite(ctx context.Context, s *state, bindings []ipam.Binding) error {
	if len(bindings) == 0 {
		return nil
	}
	text, err := ipam.Bindings{Machine: s.name, Bindings: bindings}.Encode()
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
	klog.FromContext(ctx).Info("Restored the finalizer and the bindings annotation", "bindings", len(bindings))
	return nil
}

// rejoin gives a binding that has lost its claim the one that came back with its
// address, and deletes the one that failed.
func (r *Reconciler) rejoin(ctx context.Context, s *state, lost, found *holding) error {
	// The claim that failed is deleted, and the one that was found is bound, for the machine
	// that lives: the cache may show one before it.
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	if lost.claim != nil {
		if _, err := r.deleteClaim(ctx, lost.claim.Object); err != nil {
			return fmt.Errorf("deleting claim %s, which failed: %w", klog.KObj(lost.claim), err)
		}
	}
	if err := r.rename(ctx, s, *lost.annotated, found.claim.GetName()); err != nil {
		return err
	}
	lost.annotated.Claim, lost.claim, lost.address = found.claim.GetName(), found.claim, found.address
	s.holdings = slices.DeleteFunc(s.holdings, func(other *holding) bool { return other == found })
	klog.FromContext(ctx).Info("Found a lost address on another claim", "claim", klog.KObj(found.claim), "address", lost.annotated.Address)
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
