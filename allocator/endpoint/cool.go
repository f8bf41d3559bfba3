package endpoint

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// isCooling tells whether the holding is that of a VSphereCluster that is gone, and is kept
// for a while. It is not if one lives that has the address: a backup brought it back, and
// has not brought back the claim that was still there.
func (h holding) isCooling(c clusterState) bool {
	return h.isReleased(c.holder) && (!c.exists || !h.isEndpointOf(c))
}

// isReleased tells whether the last step for the holding was to cool down. That a claim
// which stays says nothing of it is believed: it was adopted, or is not cooled yet.
func (h holding) isReleased(holder ipam.Holder) bool {
	if h.claim != nil && (ipam.IsReleased(h.claim) || h.isClaimed()) {
		return ipam.IsReleased(h.claim) && holder.Marks(h.claim)
	}
	return h.address != nil && ipam.IsReleased(h.address) && ipam.HolderOf(h.address) == holder
}

// hasToCool tells whether the address is to be kept after its Cluster. One that is going,
// and not protected, cannot be; one that lives on elsewhere must not come back.
func (h holding) hasToCool() bool {
	if h.address == nil || h.coolDown.Over || hasMoved(h.address) {
		return false
	}
	return h.coolDown.KeptFor(h.pair()) > 0 && (ipam.IsProtected(h.address) || h.isUnprotected())
}

// pair are claim and address of the holding.
func (h holding) pair() allocator.Pair { return allocator.Pair{Claim: h.claim, Address: h.address} }

func hasMoved(address client.Object) bool {
	_, moved := address.GetAnnotations()[ipam.MovedAnnotation]
	return moved
}

// decideCooling releases what has cooled down. While the Cluster is paused, or clusterctl
// moves the claim, that waits.
func decideCooling(c clusterState, h holding, now time.Time) (step, time.Duration) {
	left := h.coolDown.Left(h.pair(), h.seen, now)
	switch {
	case c.paused || h.isMoving():
		return idle, 0
	case h.pair().IsFreed():
		return idle, terminatingCheck
	case left > 0:
		return idle, left
	case h.used:
		return idle, useCheck
	}
	return release, 0
}

func (r *reconciler) cooler() allocator.Cooler {
	return allocator.Cooler{Providers: r.providers, Client: r.client, Live: r.live, Pools: r.pools, Events: r.events, ReuseAfter: r.reuseAfter}
}

// observeCoolDowns finds out what the pools of holdings say of a cool-down, where there is
// one, or where it may be about to begin.
func (r *reconciler) observeCoolDowns(ctx context.Context, s *state) error {
	count := 0
	for _, h := range s.holdings {
		cooling := h.isCooling(s.clusterState)
		mayCool := h.address != nil && (s.done || !s.exists || !h.isEndpointOf(s.clusterState))
		if cooling && h.pair().IsFreed() || !cooling && !mayCool {
			continue
		}
		if cooling {
			count++
		}
		var err error
		if h.coolDown, err = r.cooler().Read(ctx, s.key.Namespace, h.pair(), cooling); err != nil {
			return err
		}
	}
	r.cooling.Note(s.key, count)
	return nil
}

// cool takes claim and address from a VSphereCluster that is gone, and keeps the address
// for a while.
func (r *reconciler) cool(ctx context.Context, s *state, h *holding) error {
	holder := ipam.Machine{NamespacedName: s.key, Kind: ipam.OfCluster, Cluster: s.cluster}
	if err := r.cooler().Begin(ctx, h.pair(), holder, r.now()); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Keeping an endpoint from being handed out again", "address", h.address.IP, "for", h.coolDown.Lasts)
	r.event(s, corev1.EventTypeNormal, "AddressCooling", "Keeping %s from being handed out again for %s", h.address.IP, h.coolDown.Lasts)
	return nil
}

// coolingIn are the VSphereClusters whose addresses cool down in a pool.
func (r *reconciler) coolingIn(ctx context.Context, provider ipam.Provider, pool ipam.PoolReference, namespace string) []reconcile.Request {
	objects, err := kube.List(ctx, r.client, ipam.EmptyAddress(provider), client.InNamespace(namespace), client.MatchingFields{byCoolingPool: pool.String()})
	if err != nil {
		// They are looked at again when they have cooled down, at the latest.
		return nil
	}
	var requests []reconcile.Request
	for _, obj := range objects {
		name := ipam.HolderOf(obj).Name
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: name}})
	}
	return requests
}

// indexCooling indexes addresses of endpoints that cool down, by their pool.
func indexCooling(provider ipam.Provider) client.IndexerFunc {
	return func(obj client.Object) []string {
		if !ipam.IsReleased(obj) || ipam.HolderOf(obj).Kind != ipam.OfCluster {
			return nil
		}
		return []string{provider.ReadAddress(obj).Pool.String()}
	}
}
