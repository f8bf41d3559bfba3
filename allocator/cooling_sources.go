package allocator

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
)

// CoolingIn are those whose addresses cool down in a pool; of one without a namespace, in
// all.
type CoolingIn func(ctx context.Context, provider ipam.Provider, pool ipam.PoolReference, namespace string) []reconcile.Request

// CoolingSources are what tells a controller of pools that go, or that say something else
// of how long their addresses cool down.
func CoolingSources(mgr manager.Manager, c controller.Controller, providers ipam.Providers, coolingIn CoolingIn) ([]informers.Source, error) {
	var sources []informers.Source
	for _, provider := range providers {
		for _, pool := range provider.PoolKinds() {
			gvk, err := apiutil.GVKForObject(pool, mgr.GetScheme())
			if err != nil {
				return nil, fmt.Errorf("finding the kind of pools: %w", err)
			}
			enqueue := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, obj client.Object) []reconcile.Request {
				ref := ipam.PoolReference{APIGroup: gvk.Group, Kind: gvk.Kind, Name: obj.GetName()}
				return coolingIn(ctx, provider, ref, obj.GetNamespace())
			})
			sources = append(sources, informers.Source{Object: pool, Started: func(context.Context, cache.Informer) error {
				return c.Watch(source.Kind(mgr.GetCache(), pool, enqueue, coolsOtherwise()))
			}})
		}
	}
	return sources, nil
}

// coolsOtherwise passes the events after which a cool-down may be over sooner.
func coolsOtherwise() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, after := e.ObjectOld, e.ObjectNew
			return before.GetGeneration() != after.GetGeneration() || before.GetDeletionTimestamp().IsZero() != after.GetDeletionTimestamp().IsZero() ||
				before.GetAnnotations()[ipam.ReuseAfterAnnotation] != after.GetAnnotations()[ipam.ReuseAfterAnnotation]
		},
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}
