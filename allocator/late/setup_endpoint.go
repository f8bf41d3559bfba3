package late

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/limit"
)

// SetupEndpoints is Setup for VSphereClusters.
func SetupEndpoints(mgr manager.Manager, engine Allocator, demand EndpointDemand, providers ipam.Providers, recorder events.EventRecorder) ([]informers.Source, error) {
	r := &endpoints{
		allocator: engine, demand: demand, client: mgr.GetClient(), live: mgr.GetAPIReader(), events: recorder,
		memory: newMemory(endpointsWaiting), now: time.Now,
	}
	c, err := controller.New("late-endpoint", mgr, controller.Options{
		Reconciler: r, MaxConcurrentReconciles: workers, RateLimiter: limit.Failures[reconcile.Request](), LogConstructor: kube.Logger(mgr, "VSphereCluster"),
	})
	if err != nil {
		return nil, fmt.Errorf("adding the controller of VSphereClusters without an endpoint: %w", err)
	}
	pools, err := poolSources(c, mgr, providers, r.memory, r.waitingForClaim)
	if err != nil {
		return nil, err
	}
	if err := watchNamespaces(c, mgr.GetCache(), r.memory); err != nil {
		return nil, err
	}
	object, cluster := &capi.VSphereCluster{}, &capi.Cluster{}
	watch := func(kind client.Object, handle handler.EventHandler) func(context.Context, cache.Informer) error {
		return func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind(mgr.GetCache(), kind, handle))
		}
	}
	return append(pools,
		informers.Source{Object: object, Started: watch(object, r.memory.follows(func(obj client.Object) bool {
			return waitsForEndpoint(obj.(*capi.VSphereCluster))
		}))},
		informers.Source{Object: cluster, Started: watch(cluster, handler.EnqueueRequestsFromMapFunc(r.ofCluster))}), nil
}

// ofCluster are the VSphereClusters of a Cluster that wait for an endpoint. It may ask for
// another one by now.
func (r *endpoints) ofCluster(ctx context.Context, obj client.Object) []reconcile.Request {
	cluster, ok := obj.(*capi.Cluster)
	if !ok {
		return nil
	}
	all, err := kube.List(ctx, r.client, &capi.VSphereCluster{}, client.InNamespace(cluster.Namespace), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil // the resync brings what is missed here
	}
	var requests []reconcile.Request
	for _, obj := range all {
		if c, ok := obj.(*capi.VSphereCluster); ok && waitsForEndpoint(c) && isClusterOf(cluster, c) {
			r.memory.askAnew(c.UID)
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(c)})
		}
	}
	return requests
}

// waitingForClaim is the VSphereCluster that a claim is for, if it waits; also if the claim
// is somebody else's and only has the name that its own is to have.
func (r *endpoints) waitingForClaim(_ context.Context, claim client.Object) []types.NamespacedName {
	key := client.ObjectKeyFromObject(claim)
	if holder := ipam.HolderOf(claim); holder.Kind == ipam.OfCluster {
		key.Name = holder.Name
	}
	if !r.memory.isWaiting(key) {
		return nil
	}
	return []types.NamespacedName{key}
}
