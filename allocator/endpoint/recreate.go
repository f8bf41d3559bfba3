package endpoint

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

func (r *reconciler) recreation() allocator.Recreation {
	return allocator.Recreation{Providers: r.providers, Client: r.client, Live: r.live, Pools: r.pools}
}

// recreate makes the claim of an endpoint anew that others deleted, or that was lost. It
// gets the very address that the VSphereCluster has.
func (r *reconciler) recreate(ctx context.Context, s *state, h *holding) error {
	uses, err := r.confirmUse(ctx, s)
	if err != nil || !uses {
		return err
	}
	if h.address != nil {
		if err := r.protect(ctx, s, h); err != nil {
			return err
		}
	}
	b := *h.bound
	claim := r.recreation().NewClaim(ctx, s.identity(), b)
	r.markAdopted(claim, s)
	if h.placed {
		if placed, err := r.place(ctx, s, h); err != nil || !placed {
			return err
		}
	}
	made, err := r.recreation().Make(ctx, claim, b, h.placed, r.now())
	if err != nil {
		return err
	}
	if made && !h.placed {
		r.tellRecreated(ctx, s, claim)
	}
	return nil
}

// confirmUse asks the API server whether the VSphereCluster lives, and has the address.
// What its annotation says, anybody may have written.
func (r *reconciler) confirmUse(ctx context.Context, s *state) (bool, error) {
	object := &capi.VSphereCluster{}
	if err := r.live.Get(ctx, s.key, object); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return object.UID == s.object.UID && object.DeletionTimestamp.IsZero() &&
		capi.ParseAddress(object.Spec.ControlPlaneEndpoint.Host) == s.host, nil
}

// identity is the VSphereCluster as an address is claimed for it.
func (s *state) identity() ipam.Machine {
	return ipam.Machine{
		NamespacedName: s.key, Kind: ipam.OfCluster,
		Cluster: s.cluster, WatchFilter: s.object.Labels[clusterv1.WatchLabel],
	}
}

// place has the address object of a claim that is to be recreated made before it.
func (r *reconciler) place(ctx context.Context, s *state, h *holding) (bool, error) {
	requester, ok := r.providers.For(h.bound.Pool).(ipam.Requester)
	if !ok {
		return false, nil
	}
	placement, err := r.recreation().Place(ctx, s.holder, *h.bound, h.address, func() client.Object {
		address := requester.Requested(s.key.Namespace, *h.bound)
		ipam.ProtectFor(address, s.holder)
		if s.cluster != "" {
			kube.SetLabel(address, clusterv1.ClusterNameLabel, s.cluster)
		}
		return address
	})
	if placement == allocator.Taken {
		r.report(ctx, s, h)
	}
	return placement == allocator.Placed, err
}

func (r *reconciler) tellRecreated(ctx context.Context, s *state, claim client.Object) {
	r.recreation().CountRecreated()
	klog.FromContext(ctx).Info("Recreated a claim that was missing", "claim", klog.KObj(claim), "address", s.host)
	r.event(s, corev1.EventTypeNormal, "ClaimRecreated", "Claim %s was missing; recreated it for %s", claim.GetName(), s.host)
}

// verify checks that a claim which was recreated, and is bound, is the only one on its
// address.
func (r *reconciler) verify(ctx context.Context, s *state, h *holding) error {
	verdict, err := r.recreation().Verify(ctx, s.key.Namespace, *h.bound, *h.address)
	switch {
	case err != nil || verdict == allocator.Waits:
		return err
	case verdict == allocator.GivesWay:
		r.report(ctx, s, h)
		return r.giveUp(ctx, h)
	}
	if err := r.recreation().Confirm(ctx, h.claim.Object); err != nil {
		return err
	}
	r.tellRecreated(ctx, s, h.claim)
	return nil
}

// giveUp undoes what recreate did, for the one that has the address now.
func (r *reconciler) giveUp(ctx context.Context, h *holding) error {
	if err := r.unprotectAddress(ctx, h); err != nil {
		return err
	}
	return r.deleteClaim(ctx, h)
}

// deleteFailed deletes a claim that failed, and so has no address; when it is gone, it is
// recreated.
func (r *reconciler) deleteFailed(ctx context.Context, s *state, h *holding) error {
	r.report(ctx, s, h)
	return r.deleteClaim(ctx, h)
}

// report says that the VSphereCluster has an address that IPAM no longer gives it.
func (r *reconciler) report(ctx context.Context, s *state, h *holding) {
	r.recreation().CountLost()
	klog.FromContext(ctx).Error(nil, "The endpoint is not bound to its VSphereCluster", "claim", h.bound.Claim, "address", s.host)
	r.event(s, corev1.EventTypeWarning, "AddressLost",
		"%s %s no longer binds %s to this VSphereCluster, whose endpoint it is: keep the pool from handing it out, or free it there",
		h.bound.Pool.Kind, h.bound.Pool.Name, s.host)
}
