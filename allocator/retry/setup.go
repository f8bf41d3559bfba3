package retry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/limit"
)

// byPool is the name of the index of owners by the pools that they wait for. All
// that wait for anything have anyObstacle, too; those that were made to try again, and
// have not been refused since, have triedAgain.
const (
	byPool      = "capv-static-ip.dev/refused-by"
	anyObstacle = "*"
	triedAgain  = "-"
)

// byUID is the name of the index of owners by their UIDs.
const byUID = "capv-static-ip.dev/uid"

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachinetemplates,verbs=get;list;watch

// Setup adds the controller to the manager. It runs on the elected replica
// only. The sources that it returns must be started, on every replica.
func Setup(mgr manager.Manager, providers ipam.Providers, freezer allocator.Freezer) ([]informers.Source, error) {
	r := newReconciler(providers, mgr.GetClient())
	r.freezer = freezer
	c, err := controller.NewTyped("retry", mgr, controller.TypedOptions[poolKey]{
		Reconciler:              r,
		MaxConcurrentReconciles: 1,
		RateLimiter:             limit.Failures[poolKey](),
		LogConstructor: func(key *poolKey) logr.Logger {
			if key == nil {
				return mgr.GetLogger()
			}
			return mgr.GetLogger().WithValues("pool", key.String())
		},
	})
	if err != nil {
		return nil, fmt.Errorf("adding the retry controller: %w", err)
	}
	pools, err := r.poolSources(c, mgr, providers)
	if err != nil {
		return nil, err
	}
	if err := c.Watch(source.TypedKind[client.Object](mgr.GetCache(), allocator.Namespaces(), handler.TypedEnqueueRequestsFromMapFunc(r.ownersIn), allocator.FreezesOrThaws())); err != nil {
		return nil, fmt.Errorf("watching namespaces: %w", err)
	}
	return append(pools, r.ownerSources(c, mgr.GetCache())...), nil
}

// poolSources are what tells of addresses that become free. Where a provider
// counts address objects, one may go from the cache after its pool has changed.
func (r *reconciler) poolSources(c controller.TypedController[poolKey], mgr manager.Manager, providers ipam.Providers) ([]informers.Source, error) {
	var sources []informers.Source
	for _, provider := range providers {
		ofAddress := func(_ context.Context, obj client.Object) []poolKey {
			return []poolKey{{PoolReference: provider.ReadAddress(obj).Pool, Namespace: obj.GetNamespace()}}
		}
		address := ipam.EmptyAddress(provider)
		sources = append(sources, informers.Source{Object: address, Started: watch(c, mgr.GetCache(), address, ofAddress, deleted())})
		for _, pool := range provider.PoolKinds() {
			gvk, err := apiutil.GVKForObject(pool, mgr.GetScheme())
			if err != nil {
				return nil, fmt.Errorf("finding the kind of pools: %w", err)
			}
			r.watched[gvk.GroupKind()] = true
			ofPool := func(_ context.Context, obj client.Object) []poolKey {
				ref := ipam.PoolReference{APIGroup: gvk.Group, Kind: gvk.Kind, Name: obj.GetName()}
				return []poolKey{{PoolReference: ref, Namespace: obj.GetNamespace()}}
			}
			sources = append(sources,
				informers.Source{Object: pool, Started: watch(c, mgr.GetCache(), pool, ofPool)},
				informers.Source{Object: pool, Started: watch(c, mgr.GetCache(), pool, r.ownersNear, statesAnew(r.now))})
		}
	}
	return sources, nil
}

// ownerSources are those who wait, and what may keep them from trying.
func (r *reconciler) ownerSources(c controller.TypedController[poolKey], from cache.Cache) []informers.Source {
	template := kube.MetadataOf(capi.InScheme(r.client.Scheme(), capi.VSphereMachineTemplateKind))
	sources := []informers.Source{
		{Object: &capi.Cluster{}, Started: watch[client.Object](c, from, &capi.Cluster{}, r.poolsOfCluster, resumed())},
		{Object: template, Started: watch[client.Object](c, from, template, r.ownersOfTemplate, asksAnew(r.now))},
	}
	for _, kind := range OwnerKinds() {
		owner := kube.MetadataOf(capi.InScheme(r.client.Scheme(), kind))
		sources = append(sources, informers.Source{
			Object:  owner,
			Indexes: map[string]client.IndexerFunc{byPool: indexByPool, byUID: indexByUID},
			Started: watch[client.Object](c, from, owner, poolsOfOwner),
		})
	}
	return sources
}

func watch[object client.Object](c controller.TypedController[poolKey], from cache.Cache, kind object,
	keysOf handler.TypedMapFunc[object, poolKey], predicates ...predicate.TypedPredicate[object],
) func(context.Context, cache.Informer) error {
	return func(context.Context, cache.Informer) error {
		return c.Watch(source.TypedKind(from, kind, handler.TypedEnqueueRequestsFromMapFunc(keysOf), predicates...))
	}
}

func deleted() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// resumed passes the events after which a Cluster no longer holds anything up.
func resumed() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return !isPaused(e.Object) },
		UpdateFunc:  func(e event.UpdateEvent) bool { return isPaused(e.ObjectOld) && !isPaused(e.ObjectNew) },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// asksAnew passes the events after which the machines of a template may ask for
// something else. Templates that are old are only new to us.
func asksAnew(now func() time.Time) predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return now().Sub(e.Object.GetCreationTimestamp().Time) < time.Minute },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) ||
				!maps.Equal(e.ObjectOld.GetAnnotations(), e.ObjectNew.GetAnnotations())
		},
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// statesAnew passes the events after which a pool may be for others than before. That it
// is made is one where nobody waits for it by its name: of a pool that can be asked for by
// labels, and of a pool of all namespaces that a bare name may mean.
func statesAnew(now func() time.Time) predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool {
			_, limited := e.Object.GetAnnotations()[ipam.UsedByAnnotation]
			isUnnamed := limited && e.Object.GetNamespace() == "" || !ipam.LabelsOf(e.Object).IsEmpty()
			return isUnnamed && now().Sub(e.Object.GetCreationTimestamp().Time) < time.Minute
		},
		UpdateFunc:  func(e event.UpdateEvent) bool { return !ipam.StatesTheSame(e.ObjectOld, e.ObjectNew) },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// ownersNear are all refused owners that a pool could serve: in its namespace or, if
// it has none, in all. Which of them it refused is not written on them.
func (r *reconciler) ownersNear(ctx context.Context, pool client.Object) []poolKey {
	if pool.GetNamespace() != "" {
		return r.ownersOfTemplate(ctx, pool)
	}
	owners, err := r.waiting(ctx, poolKey{})
	if err != nil {
		return nil // the patrol comes round to them
	}
	keys := map[poolKey]bool{}
	for i := range owners {
		r.changes.note(owners[i].Namespace, r.now())
		keys[poolKey{Namespace: owners[i].Namespace}] = true
	}
	return slices.Collect(maps.Keys(keys))
}

func indexByPool(owner client.Object) []string {
	shortages := shortagesOf(owner)
	if len(shortages) == 0 {
		if _, tried := owner.GetAnnotations()[ipam.TriedAgainAnnotation]; tried {
			return []string{triedAgain}
		}
		return nil
	}
	values := []string{anyObstacle}
	for obstacle := range shortages {
		if obstacle.Reason == "" {
			values = append(values, obstacle.Pool.String())
		}
	}
	return values
}

func indexByUID(owner client.Object) []string { return []string{string(owner.GetUID())} }

func poolsOfOwner(_ context.Context, owner client.Object) []poolKey {
	if len(indexByPool(owner)) == 0 {
		return nil
	}
	keys := []poolKey{{Namespace: owner.GetNamespace()}}
	for obstacle := range shortagesOf(owner) {
		if obstacle.Reason == "" {
			keys = append(keys, poolKey{PoolReference: obstacle.Pool, Namespace: owner.GetNamespace()})
		}
	}
	return keys
}

// ownersOfTemplate are all refused owners in the template's namespace. Which of
// them use it is known to CAPI only.
func (r *reconciler) ownersOfTemplate(_ context.Context, template client.Object) []poolKey {
	r.changes.note(template.GetNamespace(), r.now())
	return []poolKey{{Namespace: template.GetNamespace()}}
}

// ownersIn are all refused owners of a namespace: it was frozen, or is so no more.
func (r *reconciler) ownersIn(_ context.Context, namespace client.Object) []poolKey {
	r.changes.note(namespace.GetName(), r.now())
	return []poolKey{{Namespace: namespace.GetName()}}
}

// poolsOfCluster are those that somebody waits for in a Cluster's namespace. A
// Cluster that appears or is resumed may have them served, or let owners try.
func (r *reconciler) poolsOfCluster(ctx context.Context, cluster client.Object) []poolKey {
	var keys []poolKey
	for _, kind := range OwnerKinds() {
		list := kube.MetadataListOf(capi.InScheme(r.client.Scheme(), kind))
		if err := r.client.List(ctx, list, client.InNamespace(cluster.GetNamespace())); err != nil {
			continue // the resync brings what is missed here
		}
		for i := range list.Items {
			keys = append(keys, poolsOfOwner(ctx, &list.Items[i])...)
		}
	}
	return keys
}
