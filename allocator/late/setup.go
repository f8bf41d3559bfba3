package late

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
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

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/limit"
)

// workers is the number of machines that are served at once. Of those that claim from
// one pool only a few have their turn, among the requests of admission.
const workers = 10

// byOwner is the name of the cache index that finds VSphereVMs by the machine that owns them.
const byOwner = "capv-static-ip.dev/owner"

func indexByOwner(vm client.Object) []string {
	if owner := capi.OwnerMachine(vm); owner.UID != "" {
		return []string{string(owner.UID)}
	}
	return nil
}

// Setup adds the controller to the manager. It runs on the elected replica only. The
// sources that it returns must be started, on every replica.
func Setup(mgr manager.Manager, engine Allocator, demand Demand, providers ipam.Providers, recorder events.EventRecorder) ([]informers.Source, error) {
	r := &Reconciler{
		allocator: engine, demand: demand, client: mgr.GetClient(), live: mgr.GetAPIReader(), events: recorder,
		memory: newMemory(machinesWaiting), now: time.Now,
	}
	c, err := controller.New("late", mgr, controller.Options{
		Reconciler: r, MaxConcurrentReconciles: workers, RateLimiter: limit.Failures[reconcile.Request](), LogConstructor: kube.Logger(mgr, "VSphereMachine"),
	})
	if err != nil {
		return nil, fmt.Errorf("adding the controller of machines without addresses: %w", err)
	}
	pools, err := poolSources(c, mgr, providers, r.memory, r.machineOfClaim)
	if err != nil {
		return nil, err
	}
	if err := watchNamespaces(c, mgr.GetCache(), r.memory); err != nil {
		return nil, err
	}
	return append(pools, r.machineSources(c, mgr.GetCache())...), nil
}

// watchNamespaces has those tried again that were refused in a namespace which somebody has
// frozen, or ended that.
func watchNamespaces(c controller.Controller, from cache.Cache, waiting *memory) error {
	enqueue := func(_ context.Context, namespace client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		for i, key := range waiting.waitingNear(namespace.GetName()) {
			q.AddAfter(reconcile.Request{NamespacedName: key}, settleTime+time.Duration(i)*wakeInterval)
		}
	}
	if err := c.Watch(source.Kind[client.Object](from, allocator.Namespaces(), changes(enqueue), allocator.FreezesOrThaws())); err != nil {
		return fmt.Errorf("watching namespaces: %w", err)
	}
	return nil
}

// machineSources are the machines, and what may let them be served, or ask anew.
func (r *Reconciler) machineSources(c controller.Controller, from cache.Cache) []informers.Source {
	template := kube.MetadataOf(capi.InScheme(r.client.Scheme(), capi.VSphereMachineTemplateKind))
	watch := func(kind client.Object, handle handler.EventHandler, predicates ...predicate.Predicate) func(context.Context, cache.Informer) error {
		return func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind(from, kind, handle, predicates...))
		}
	}
	return []informers.Source{
		{Object: &capi.VSphereMachine{}, Started: watch(&capi.VSphereMachine{}, r.memory.follows(r.isToBeAsked))},
		{Object: &capi.VSphereVM{}, Indexes: map[string]client.IndexerFunc{byOwner: indexByOwner}},
		{Object: &capi.Cluster{}, Started: watch(&capi.Cluster{}, handler.EnqueueRequestsFromMapFunc(r.machinesOfCluster), resumed())},
		{Object: template, Started: watch(template, handler.EnqueueRequestsFromMapFunc(r.machinesOfTemplate), asksAnew())},
		{Object: &capi.VSphereDeploymentZone{}, Started: watch(&capi.VSphereDeploymentZone{}, handler.EnqueueRequestsFromMapFunc(r.machinesOfZones), changesZone())},
		{Object: &capi.VSphereFailureDomain{}, Started: watch(&capi.VSphereFailureDomain{}, handler.EnqueueRequestsFromMapFunc(r.machinesOfZones), changesZone())},
	}
}

// machinesOfZones are those that may ask for something else when there is another failure
// domain, or one asks for something else. In which each of them is is not known here.
func (r *Reconciler) machinesOfZones(ctx context.Context, _ client.Object) []reconcile.Request {
	due := r.due(ctx)
	for _, m := range due {
		r.memory.askAnew(m.GetUID())
	}
	return requestsFor(due)
}

// isToBeAsked tells whether a machine may be due, and is not known to need nothing.
func (r *Reconciler) isToBeAsked(obj client.Object) bool {
	m := obj.(*capi.VSphereMachine)
	return mayBeDue(m) && !r.memory.isAnswered(m)
}

// follows enqueues an object that is due, or is not any more. Of all others there is
// nothing to be known. One that is deleted is forgotten.
func (m *memory) follows(isDue func(client.Object) bool) handler.EventHandler {
	enqueue := func(obj client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		key := client.ObjectKeyFromObject(obj)
		if isDue(obj) || m.isWaiting(key) {
			q.Add(reconcile.Request{NamespacedName: key})
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(e.Object, q)
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(e.ObjectNew, q)
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			m.askAnew(e.Object.GetUID())
			m.end(client.ObjectKeyFromObject(e.Object))
		},
	}
}

// poolSources are what a machine, or a VSphereCluster, that was refused waits for: a pool,
// or one of its own claims, that changes.
func poolSources(c controller.Controller, mgr manager.Manager, providers ipam.Providers, waiting *memory, ofClaim func(context.Context, client.Object) []types.NamespacedName) ([]informers.Source, error) {
	var sources []informers.Source
	wake := func(kind client.Object, keysOf func(context.Context, client.Object) []types.NamespacedName, after time.Duration, predicates ...predicate.Predicate) informers.Source {
		enqueue := func(ctx context.Context, obj client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			for i, key := range keysOf(ctx, obj) {
				q.AddAfter(reconcile.Request{NamespacedName: key}, after+time.Duration(i)*wakeInterval)
			}
		}
		return informers.Source{Object: kind, Started: func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind[client.Object](mgr.GetCache(), kind, changes(enqueue), predicates...))
		}}
	}
	for _, provider := range providers {
		sources = append(sources, wake(ipam.EmptyClaim(provider), ofClaim, 0))
		for _, pool := range provider.PoolKinds() {
			gvk, err := apiutil.GVKForObject(pool, mgr.GetScheme())
			if err != nil {
				return nil, fmt.Errorf("finding the kind of pools: %w", err)
			}
			sources = append(sources, wake(pool, func(_ context.Context, obj client.Object) []types.NamespacedName {
				return waiting.waitingFor(ipam.PoolReference{APIGroup: gvk.Group, Kind: gvk.Kind, Name: obj.GetName()}, obj.GetNamespace())
			}, settleTime), wake(pool, func(_ context.Context, obj client.Object) []types.NamespacedName {
				return waiting.waitingNear(obj.GetNamespace())
			}, settleTime, statesAnew()))
		}
	}
	return sources, nil
}

// changes handles all events alike.
func changes(enqueue func(context.Context, client.Object, workqueue.TypedRateLimitingInterface[reconcile.Request])) handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(ctx, e.Object, q)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(ctx, e.ObjectNew, q)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(ctx, e.Object, q)
		},
	}
}

// machineOfClaim is the machine that a claim is for, if it waits, also if the claim
// is somebody else's and only has the name that one of the machine's is to have; or if it
// does not use the claim.
func (r *Reconciler) machineOfClaim(ctx context.Context, claim client.Object) []types.NamespacedName {
	owner := capi.OwnerMachine(claim)
	name := owner.Name
	if name == "" {
		name = ipam.MachineOf(claim)
	}
	if name == "" {
		name, _, _, _ = ipam.ParseClaimName(claim.GetName())
	}
	key := types.NamespacedName{Namespace: claim.GetNamespace(), Name: name}
	if r.memory.isWaiting(key) {
		return []types.NamespacedName{key}
	}
	if owner.UID == "" || !r.isLeftOver(ctx, key, owner.UID, claim) {
		return nil
	}
	// It was said to need nothing before this claim was seen.
	r.memory.askAnew(owner.UID)
	return []types.NamespacedName{key}
}

// isLeftOver tells whether a claim is that of a machine which does not say that it has it:
// a leader may have claimed it and died, or have asked the cache before that had it.
func (r *Reconciler) isLeftOver(ctx context.Context, key types.NamespacedName, owner types.UID, claim client.Object) bool {
	m := &capi.VSphereMachine{}
	if !claim.GetDeletionTimestamp().IsZero() || r.client.Get(ctx, key, m, client.UnsafeDisableDeepCopy) != nil || m.UID != owner {
		return false
	}
	text, bound := m.Annotations[ipam.BindingsAnnotation]
	if !bound {
		return true
	}
	bindings, err := ipam.ParseBindings(text)
	return err == nil && !slices.ContainsFunc(bindings.Bindings, func(b ipam.Binding) bool { return b.Claim == claim.GetName() })
}

// machinesOfCluster are those that may be served when a Cluster is resumed.
func (r *Reconciler) machinesOfCluster(ctx context.Context, cluster client.Object) []reconcile.Request {
	due := r.due(ctx, client.InNamespace(cluster.GetNamespace()), client.MatchingLabels{clusterv1.ClusterNameLabel: cluster.GetName()})
	return requestsFor(due)
}

// machinesOfTemplate are those that may ask for something else when the metadata of a
// template changes.
func (r *Reconciler) machinesOfTemplate(ctx context.Context, template client.Object) []reconcile.Request {
	var cloned []client.Object
	for _, m := range r.due(ctx, client.InNamespace(template.GetNamespace())) {
		if m.GetAnnotations()[clusterv1.TemplateClonedFromNameAnnotation] == template.GetName() {
			r.memory.askAnew(m.GetUID())
			cloned = append(cloned, m)
		}
	}
	return requestsFor(cloned)
}

// due are the machines that are due by the word of the cache.
func (r *Reconciler) due(ctx context.Context, opts ...client.ListOption) []client.Object {
	all, err := kube.List(ctx, r.client, &capi.VSphereMachine{}, append(opts, client.UnsafeDisableDeepCopy)...)
	if err != nil {
		return nil // the resync brings what is missed here
	}
	var found []client.Object
	for _, obj := range all {
		if m, ok := obj.(*capi.VSphereMachine); ok && mayBeDue(m) {
			found = append(found, m)
		}
	}
	return found
}

func requestsFor(machines []client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, m := range machines {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(m)})
	}
	return requests
}

// resumed passes the events after which a Cluster no longer holds anything up.
func resumed() predicate.Predicate {
	isPaused := func(obj client.Object) bool {
		cluster, ok := obj.(*capi.Cluster)
		return ok && cluster.IsPaused()
	}
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return !isPaused(e.Object) },
		UpdateFunc:  func(e event.UpdateEvent) bool { return isPaused(e.ObjectOld) && !isPaused(e.ObjectNew) },
		DeleteFunc:  func(e event.DeleteEvent) bool { return isPaused(e.Object) },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// statesAnew passes the events after which a pool may be found by those whom it did not
// refuse: it is new, or says something else of what it is for, or has other labels.
func statesAnew() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc:  func(e event.UpdateEvent) bool { return !ipam.StatesTheSame(e.ObjectOld, e.ObjectNew) },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// asksAnew passes the events after which the machines of a template may ask for
// something else.
func asksAnew() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			return !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) ||
				!maps.Equal(e.ObjectOld.GetAnnotations(), e.ObjectNew.GetAnnotations())
		},
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// changesZone passes the events after which the machines of a failure domain may ask for
// something else, or have other devices that wait: its spec takes DHCP away, or moves them
// to other networks.
func changesZone() predicate.Predicate {
	return predicate.Or(asksAnew(), predicate.GenerationChangedPredicate{})
}
