package aside

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/limit"
)

// Setup adds a controller for each provider to the manager. They run on the
// elected replica only. The sources that it returns must be started, on every
// replica.
func Setup(mgr manager.Manager, engine *allocator.Allocator, providers ipam.Providers, recorder events.EventRecorder) ([]informers.Source, error) {
	var sources []informers.Source
	for _, provider := range providers {
		claim := ipam.EmptyClaim(provider)
		gvk, err := apiutil.GVKForObject(claim, mgr.GetScheme())
		if err != nil {
			return nil, fmt.Errorf("finding the kind of claims: %w", err)
		}
		r := &reconciler{
			engine: engine, provider: provider, client: mgr.GetClient(), live: mgr.GetAPIReader(), events: recorder,
			known: map[types.NamespacedName]ipam.SetAside{},
		}
		c, err := controller.New("set-aside-"+strings.ToLower(gvk.Kind), mgr, controller.Options{
			Reconciler:     r,
			RateLimiter:    limit.Failures[reconcile.Request](),
			LogConstructor: kube.Logger(mgr, "claim"),
		})
		if err != nil {
			return nil, fmt.Errorf("adding the controller of addresses that are set aside: %w", err)
		}
		sources = append(sources, informers.Source{Object: claim, Started: func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind(mgr.GetCache(), claim, &handler.EnqueueRequestForObject{}, marked()))
		}})
		for _, user := range capi.Users() {
			sources = append(sources, informers.Source{Object: user, Started: func(context.Context, cache.Informer) error {
				return c.Watch(source.Kind[client.Object](mgr.GetCache(), user, handler.EnqueueRequestsFromMapFunc(r.claimsAside)))
			}})
		}
	}
	return sources, nil
}

// marked passes events about claims that are, or may have been, set aside.
func marked() predicate.Predicate {
	return predicate.NewPredicateFuncs(func(obj client.Object) bool {
		_, is := obj.GetLabels()[ipam.SetAsideLabel]
		return is
	})
}
