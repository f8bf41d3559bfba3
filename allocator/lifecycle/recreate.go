package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// recreate makes a claim anew that others deleted while the machine lives, or that
// was lost in a move or a restore. The claim gets the very address that the machine
// has: it asks for it, or its address is there before it.
func (r *Reconciler) recreate(ctx context.Context, s *state, h *holding) error {
	uses, err := r.confirmUse(ctx, s, h.annotated)
	if err != nil || !uses {
		return err
	}
	if h.address != nil {
		if err := r.protect(ctx, s, h); err != nil {
			return err
		}
	}
	b := h.annotated
	provider := r.providers.For(b.Pool)
	claim := provider.NewClaim(ipam.ClaimSpec{Name: b.Claim, Machine: identityOf(s.object), Pool: b.Pool})
	r.markOwned(claim, s, b)
	ipam.Use(claim, ipam.Stamp{Time: r.now()})
	if h.placed {
		if placed, err := r.place(ctx, s, h); err != nil || !placed {
			return err
		}
		kube.SetAnnotation(claim, ipam.RecreatedAnnotation, b.Address.Addr().String())
	}
	if err := r.client.Create(ctx, claim); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return fmt.Errorf("recreating claim %s: %w", klog.KObj(claim), err)
	}
	if !h.placed {
		r.tellRecreated(ctx, s, claim, b)
	}
	return nil
}

func (r *Reconciler) tellRecreated(ctx context.Context, s *state, claim client.Object, b *ipam.Binding) {
	claimsRecreated.Inc()
	klog.FromContext(ctx).Info("Recreated a claim that was missing", "claim", klog.KObj(claim), "address", b.Address)
	r.event(s, corev1.EventTypeNormal, "ClaimRecreated", "Claim %s was missing; recreated it for %s", claim.GetName(), b.Address)
}

// place makes the address object of a claim that is to be recreated, unless the
// address is somebody else's by now. It is protected and marked from the start.
func (r *Reconciler) place(ctx context.Context, s *state, h *holding) (bool, error) {
	others, err := r.others(ctx, s, h.annotated, r.client)
	switch {
	case err != nil:
		return false, err
	case len(others) > 0:
		r.report(ctx, s, h)
		return false, nil
	case h.address != nil:
		return true, nil
	}
	requester, ok := r.providers.For(h.annotated.Pool).(ipam.Requester)
	if !ok {
		return false, nil
	}
	address := requester.Requested(s.namespace, *h.annotated)
	ipam.Protect(address, s.name)
	kube.SetAnnotation(address, ipam.MachineUIDAnnotation, string(s.uid))
	if cluster := identityOf(s.object).Cluster; cluster != "" {
		address.SetLabels(map[string]string{clusterv1.ClusterNameLabel: cluster})
	}
	err = r.client.Create(ctx, address)
	switch {
	case apierrors.IsAlreadyExists(err):
		// It is the same one, which the cache does not have yet, or is in the way.
		return r.isPlaced(ctx, s, h, address)
	case err != nil:
		return false, fmt.Errorf("recreating address %s: %w", klog.KObj(address), err)
	}
	klog.FromContext(ctx).Info("Recreated an address that was missing", "address", klog.KObj(address), "ip", h.annotated.Address)
	return true, nil
}

func (r *Reconciler) isPlaced(ctx context.Context, s *state, h *holding, address client.Object) (bool, error) {
	provider := r.providers.For(h.annotated.Pool)
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(address), address); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	found := provider.ReadAddress(address)
	there := holding{annotated: h.annotated, address: &found}
	if found.Pool != h.annotated.Pool || found.Claim != h.annotated.Claim || !there.isAnnotatedAddress() {
		r.report(ctx, s, h)
		return false, nil
	}
	return found.GetDeletionTimestamp().IsZero() && ipam.MachineOf(found) == s.name, nil
}

// others are the address objects that answer other claims with the address of a
// binding: in the machine's namespace, or, if the pool has none, in all.
func (r *Reconciler) others(ctx context.Context, s *state, b *ipam.Binding, reader client.Reader) ([]ipam.Address, error) {
	provider := r.providers.For(b.Pool)
	namespace, err := r.namespaceOf(s.namespace, b.Pool)
	if err != nil {
		return nil, err
	}
	objects, err := kube.ListFrom(ctx, r.client, reader, ipam.EmptyAddress(provider), client.InNamespace(namespace), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("searching %s for other claims on %s: %w", b.Pool, b.Address.Addr(), err)
	}
	var others []ipam.Address
	for _, obj := range objects {
		address := provider.ReadAddress(obj)
		own := address.GetNamespace() == s.namespace && address.Claim == b.Claim
		if address.Pool == b.Pool && capi.ParseAddress(address.IP) == b.Address.Addr() && !own {
			others = append(others, address)
		}
	}
	return others, nil
}

// namespaceOf is the namespace in which the addresses of a pool are: all, if pools
// of its kind have no namespace.
func (r *Reconciler) namespaceOf(machine string, pool ipam.PoolReference) (string, error) {
	mapping, err := r.client.RESTMapper().RESTMapping(schema.GroupKind{Group: pool.APIGroup, Kind: pool.Kind})
	switch {
	case meta.IsNoMatchError(err):
		return machine, nil
	case err != nil:
		return "", fmt.Errorf("looking for the scope of %s: %w", pool, err)
	case mapping.Scope.Name() == meta.RESTScopeNameRoot:
		return metav1.NamespaceAll, nil
	}
	return machine, nil
}

// verify checks, now that the provider has bound a claim which was recreated, and
// so knows of its address, that it has given that to nobody else meanwhile. If it
// has, the claim is taken back: one owner is all that a provider can keep apart.
func (r *Reconciler) verify(ctx context.Context, s *state, h *holding) error {
	others, err := r.others(ctx, s, h.annotated, r.live)
	if err != nil {
		return err
	}
	for _, other := range others {
		loses, err := r.losesTo(ctx, h, other)
		switch {
		case err != nil:
			return err
		case loses:
			return r.giveWay(ctx, s, h)
		}
	}
	if len(others) > 0 {
		return nil
	}
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	before := h.claim.DeepCopyObject().(client.Object)
	annotations := h.claim.GetAnnotations()
	delete(annotations, ipam.RecreatedAnnotation)
	h.claim.SetAnnotations(annotations)
	if err := r.patch(ctx, h.claim.Object, before); err != nil {
		return fmt.Errorf("confirming claim %s: %w", klog.KObj(h.claim), err)
	}
	r.tellRecreated(ctx, s, h.claim, h.annotated)
	return nil
}

// losesTo tells whether a claim that was recreated has to give way to the one
// that another address answers. Of two that were recreated at once, for copies of
// one machine, one has to stay.
func (r *Reconciler) losesTo(ctx context.Context, h *holding, other ipam.Address) (bool, error) {
	// The mark on the other claim is asked for again: if the cache still shows it while the
	// other one has been verified, neither would give way.
	claim := ipam.EmptyClaim(r.providers.For(other.Pool))
	exists, err := r.exists(ctx, keyIn(other, other.Claim), claim)
	if err != nil {
		return false, fmt.Errorf("reading claim %s: %w", other.Claim, err)
	}
	return !exists || !isRecreated(claim) || other.GetUID() < h.address.GetUID(), nil
}

// giveWay undoes what recreate did, for the one that has the address now.
func (r *Reconciler) giveWay(ctx context.Context, s *state, h *holding) error {
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	r.report(ctx, s, h)
	if err := r.unprotect(ctx, h, freed); err != nil {
		return err
	}
	if _, err := r.deleteClaim(ctx, h.claim.Object); err != nil {
		return fmt.Errorf("giving up claim %s: %w", klog.KObj(h.claim), err)
	}
	return nil
}

// deleteFailed deletes a claim that failed; when it is gone, it is recreated.
func (r *Reconciler) deleteFailed(ctx context.Context, s *state, h *holding) error {
	r.report(ctx, s, h)
	// What the claim has, if anything, is not the address that the machine uses. But if the
	// machine is another one by now, its request may wait for this claim.
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	if _, err := r.deleteClaim(ctx, h.claim.Object); err != nil {
		return fmt.Errorf("deleting claim %s, which failed: %w", klog.KObj(h.claim), err)
	}
	return nil
}

// report says that the machine uses an address that IPAM no longer gives it.
func (r *Reconciler) report(ctx context.Context, s *state, h *holding) {
	addressesLost.Inc()
	klog.FromContext(ctx).Error(nil, "The machine's address is not bound to it", "claim", h.annotated.Claim, "address", h.annotated.Address)
	r.event(s, corev1.EventTypeWarning, "AddressLost",
		"%s %s no longer binds %s to this machine, which uses it: replace the machine, or claim %s for it by hand as %s, with the annotation %s: %s",
		h.annotated.Pool.Kind, h.annotated.Pool.Name, h.annotated.Address, h.annotated.Address.Addr(), h.annotated.Claim,
		ipam.ForAnnotation, s.name)
}
