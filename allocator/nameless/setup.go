package nameless

import (
	"context"
	"fmt"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/limit"
)

// Setup adds a controller for each provider to the manager. They run on the elected replica only.
// The sources that it returns must be started, on every replica.
func Setup(mgr manager.Manager, providers ipam.Providers, freezer allocator.Freezer) ([]informers.Source, error) {
	var sources []informers.Source
	for _, provider := range providers {
		address := ipam.EmptyAddress(provider)
		gvk, err := apiutil.GVKForObject(address, mgr.GetScheme())
		if err != nil {
			return nil, fmt.Errorf("finding the kind of addresses: %w", err)
		}
		c, err := controller.New("nameless-"+strings.ToLower(gvk.GroupKind().String()), mgr, controller.Options{
			Reconciler:     &reconciler{provider: provider, client: mgr.GetClient(), live: mgr.GetAPIReader(), freezer: freezer},
			RateLimiter:    limit.Failures[reconcile.Request](),
			LogConstructor: kube.Logger(mgr, "address"),
		})
		if err != nil {
			return nil, fmt.Errorf("adding the controller of addresses that name nobody: %w", err)
		}
		sources = append(sources, informers.Source{Object: address, Started: func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind(mgr.GetCache(), address, &handler.EnqueueRequestForObject{}, predicate.NewPredicateFuncs(isNameless)))
		}})
	}
	return sources, nil
}
