package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
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
	claim := r.recreation().NewClaim(ctx, identityOf(s.object), *b)
	r.markOwned(claim, s, b)
	if h.placed {
		if placed, err := r.place(ctx, s, h); err != nil || !placed {
			return err
		}
	}
	made, err := r.recreation().Make(ctx, claim, *b, h.placed, r.now())
	if err != nil {
		return err
	}
	if made && !h.placed {
		r.tellRecreated(ctx, s, claim, b)
	}
	return nil
}

func (r *Reconciler) tellRecreated(ctx context.Context, s *state, claim client.Object, b *ipam.Binding) {
	r.recreation().CountRecreated()
	klog.FromContext(ctx).Info("Recreated a claim that was missing", "claim", klog.KObj(claim), "address", b.Address)
	r.event(s, corev1.EventTypeNormal, "ClaimRecreated", "Claim %s was missing; recreated it for %s", claim.GetName(), b.Address)
}

// place has the address object of a claim that is to be recreated made before it.
func (r *Reconciler) place(ctx context.Context, s *state, h *holding) (bool, error) {
	provider, b := r.providers.For(h.annotated.Pool), *h.annotated
	requester, ok := provider.(ipam.Requester)
	if !ok {
		return false, nil
	}
	placement, err := r.recreation().Place(ctx, ipam.Holder{Name: s.name}, b, h.address, func() client.Object {
		address := requester.Requested(s.namespace, b)
		ipam.Protect(address, s.name)
		kube.SetAnnotation(address, ipam.MachineUIDAnnotation, string(s.uid))
		if cluster := identityOf(s.object).Cluster; cluster != "" {
			address.SetLabels(map[string]string{clusterv1.ClusterNameLabel: cluster})
		}
		return address
	})
	if placement == allocator.Taken {
		r.report(ctx, s, h)
	}
	return placement == allocator.Placed, err
}

func (r *Reconciler) recreation() allocator.Recreation {
	return allocator.Recreation{Providers: r.providers, Client: r.client, Live: r.live, Pools: r.pools}
}

// verify checks that a claim which was recreated, and is bound, is the only one on its
// address.
func (r *Reconciler) verify(ctx context.Context, s *state, h *holding) error {
	verdict, err := r.recreation().Verify(ctx, s.namespace, *h.annotated, *h.address)
	switch {
	case err != nil || verdict == allocator.Waits:
		return err
	case verdict == allocator.GivesWay:
		return r.giveWay(ctx, s, h)
	}
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	if err := r.recreation().Confirm(ctx, h.claim.Object); err != nil {
		return err
	}
	r.tellRecreated(ctx, s, h.claim, h.annotated)
	return nil
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
	r.recreation().CountLost()
	klog.FromContext(ctx).Error(nil, "The machine's address is not bound to it", "claim", h.annotated.Claim, "address", h.annotated.Address)
	r.event(s, corev1.EventTypeWarning, "AddressLost",
		"%s %s no longer binds %s to this machine, which uses it: replace the machine, or claim %s for it by hand as %s, with the annotation %s: %s",
		h.annotated.Pool.Kind, h.annotated.Pool.Name, h.annotated.Address, h.annotated.Address.Addr(), h.annotated.Claim,
		ipam.ForAnnotation, s.name)
}
