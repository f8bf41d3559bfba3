package endpoint

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// adopt protects the address, makes the claim one that is no request's any more, and
// writes our marks on the VSphereCluster, if they were lost.
func (r *reconciler) adopt(ctx context.Context, s *state, h *holding) error {
	if err := r.protect(ctx, s, h); err != nil {
		return err
	}
	before := h.claim.DeepCopyObject().(client.Object)
	r.markAdopted(h.claim.Object, s)
	if !equality.Semantic.DeepEqual(before, h.claim.Object) {
		if err := kube.PatchAsRead(ctx, r.client, h.claim.Object, before); err != nil {
			return fmt.Errorf("adopting claim %s: %w", klog.KObj(h.claim), err)
		}
		klog.FromContext(ctx).Info("Adopted the claim of an endpoint", "claim", klog.KObj(h.claim), "address", s.host)
		r.event(s, corev1.EventTypeNormal, "AddressBound", "Holding %s from %s %s", s.host, h.claim.Pool.Kind, h.claim.Pool.Name)
	}
	if err := r.restore(ctx, s, h); err != nil {
		return err
	}
	return ipam.Owners{Client: r.client, Providers: r.providers, Cached: r.pools, Live: r.live}.Restore(ctx, h.address, h.claim)
}

// markAdopted writes into a claim whose it is, what makes clusterctl move it, a request for
// the address that it has, and what keeps the provider from freeing that.
func (r *reconciler) markAdopted(claim client.Object, s *state) {
	ipam.Mark(claim, s.identity())
	ipam.Readopt(claim)
	annotations := claim.GetAnnotations()
	delete(annotations, ipam.RequestedByAnnotation)
	claim.SetAnnotations(annotations)
	provider := r.providers.OfClaim(claim)
	if requester, ok := provider.(ipam.Requester); ok {
		requester.Request(claim, s.host)
	}
	if provider.Traits().KeepsFinalizedClaims {
		controllerutil.AddFinalizer(claim, ipam.InUseFinalizer)
	}
}

// restore writes our finalizer and the binding on the VSphereCluster.
func (r *reconciler) restore(ctx context.Context, s *state, h *holding) error {
	bound, known := (&machine.VSphereCluster{ObjectMeta: s.object.ObjectMeta}).Bound()
	before := s.object.DeepCopy()
	controllerutil.AddFinalizer(s.object, ipam.ReleaseFinalizer)
	if !known || bound.Claim != h.claim.GetName() || bound.Address.Addr() != s.host {
		b := ipam.Binding{Pool: h.claim.Pool, Claim: h.claim.GetName(), Address: prefixOf(s.host)}
		text, err := machine.EndpointBindings(s.key.Name, b).Encode()
		if err != nil {
			return err
		}
		metav1.SetMetaDataAnnotation(&s.object.ObjectMeta, ipam.BindingsAnnotation, text)
	}
	if equality.Semantic.DeepEqual(before, s.object) {
		return nil
	}
	if err := kube.PatchAsRead(ctx, r.client, s.object, before); err != nil {
		return fmt.Errorf("restoring our marks: %w", err)
	}
	return nil
}

// protect puts our finalizer on the address and writes on it whose it is.
func (r *reconciler) protect(ctx context.Context, s *state, h *holding) error {
	address := h.address.Object
	before := address.DeepCopyObject().(client.Object)
	ipam.ProtectFor(address, s.holder)
	ipam.DropFormerOwners(h.address, h.claim)
	if equality.Semantic.DeepEqual(before, address) {
		return nil
	}
	if err := kube.PatchAsRead(ctx, r.client, address, before); err != nil {
		return fmt.Errorf("protecting address %s: %w", klog.KObj(address), err)
	}
	return nil
}

// markMoved notes on an address that clusterctl takes its VSphereCluster away.
func (r *reconciler) markMoved(ctx context.Context, h *holding) error {
	before := h.address.DeepCopyObject().(client.Object)
	kube.SetAnnotation(h.address, ipam.MovedAnnotation, "")
	if err := kube.PatchAsRead(ctx, r.client, h.address.Object, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("noting the move on address %s: %w", klog.KObj(h.address), err)
	}
	return nil
}

// release gives the endpoint of a VSphereCluster that is done, or gone, back: the address first, as
// an unprotected address still has its claim if this is interrupted.
func (r *reconciler) release(ctx context.Context, s *state, h *holding) error {
	if err := r.unprotectAddress(ctx, h); err != nil {
		return err
	}
	if h.claim != nil {
		if err := r.deleteClaim(ctx, h); err != nil {
			return err
		}
	}
	klog.FromContext(ctx).Info("Released an endpoint", "address", h.ip())
	r.event(s, corev1.EventTypeNormal, "AddressReleased", "Released %s to %s %s", h.ip(), h.pool().Kind, h.pool().Name)
	return nil
}

// unprotect lets the provider free an address whose claim goes, or is gone.
func (r *reconciler) unprotect(ctx context.Context, h *holding) error {
	if err := r.unprotectAddress(ctx, h); err != nil || h.claim == nil {
		return err
	}
	return r.removeClaimFinalizer(ctx, h.claim.Object)
}

// unprotectAddress takes our finalizer and marks off the address. One that nobody frees,
// since its claim is gone, keeps the mark by which it is then found.
func (r *reconciler) unprotectAddress(ctx context.Context, h *holding) error {
	if h.address == nil || !ipam.IsProtected(h.address) {
		return nil
	}
	before := h.address.DeepCopyObject().(client.Object)
	holder := ipam.HolderOf(h.address)
	ipam.Unprotect(h.address)
	if h.claim == nil && h.address.GetDeletionTimestamp().IsZero() && holder.Kind == ipam.OfCluster {
		kube.SetAnnotation(h.address, ipam.ClusterNameAnnotation, holder.Name)
	}
	if err := kube.PatchAsRead(ctx, r.client, h.address.Object, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("unprotecting address %s: %w", klog.KObj(h.address), err)
	}
	return nil
}

// deleteClaim deletes a claim, unless it is being deleted already.
func (r *reconciler) deleteClaim(ctx context.Context, h *holding) error {
	if err := r.removeClaimFinalizer(ctx, h.claim.Object); err != nil {
		return err
	}
	if !h.claim.GetDeletionTimestamp().IsZero() {
		return nil
	}
	if err := kube.DeleteAsRead(ctx, r.client, h.claim.Object); err != nil {
		return fmt.Errorf("deleting claim %s: %w", klog.KObj(h.claim), err)
	}
	return nil
}

func (r *reconciler) removeClaimFinalizer(ctx context.Context, claim client.Object) error {
	before := claim.DeepCopyObject().(client.Object)
	if !controllerutil.RemoveFinalizer(claim, ipam.InUseFinalizer) {
		return nil
	}
	if err := kube.PatchAsRead(ctx, r.client, claim, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("taking our finalizer off claim %s: %w", klog.KObj(claim), err)
	}
	return nil
}

// removeFinalizer takes our finalizer off a VSphereCluster that is otherwise done. An
// address that a Cluster still has stays claimed without it; one that is frozen keeps it.
func (r *reconciler) removeFinalizer(ctx context.Context, s *state) error {
	if !s.done || s.moving || !controllerutil.ContainsFinalizer(s.object, ipam.ReleaseFinalizer) || r.isFrozen(s) {
		return nil
	}
	before := s.object.DeepCopy()
	controllerutil.RemoveFinalizer(s.object, ipam.ReleaseFinalizer)
	if err := kube.PatchAsRead(ctx, r.client, s.object, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing our finalizer: %w", err)
	}
	return nil
}

func (r *reconciler) event(s *state, kind, reason, format string, args ...any) {
	if s.object != nil {
		r.events.Eventf(s.object, nil, kind, reason, "Reconcile", format, args...)
	}
}
