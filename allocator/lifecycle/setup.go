package lifecycle

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
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

// workers is the number of machines reconciled at once. A reconcile mostly
// waits for the API server.
const workers = 10

// Periods are how long things are left as they are, and until when they must be.
type Periods struct {
	// Freezer finds what is not to be given back at all now.
	Freezer allocator.Freezer
	// OrphanGrace is for claims whose machine was never stored.
	OrphanGrace time.Duration
	// ReuseAfter is for addresses whose machines are gone, where their pool says nothing.
	ReuseAfter time.Duration
}

// Setup adds the controller to the manager. It runs on the elected replica only.
// The sources that it returns must be started, on every replica: an elected one
// continues with caches that are warm. What happens is told through the recorder,
// and to owners through their refusals.
func Setup(mgr manager.Manager, providers ipam.Providers, recorder events.EventRecorder, refusals Refusals, periods Periods) ([]informers.Source, error) {
	r := &Reconciler{
		providers:  providers,
		client:     mgr.GetClient(),
		live:       mgr.GetAPIReader(),
		events:     recorder,
		refusals:   refusals,
		grace:      periods.OrphanGrace,
		reuseAfter: periods.ReuseAfter,
		freezer:    periods.Freezer,
		pools:      mgr.GetCache(),
		now:        time.Now,
	}
	machines, err := controller.New("lifecycle", mgr, controller.Options{
		Reconciler: r, MaxConcurrentReconciles: workers, RateLimiter: limit.Failures[reconcile.Request](), LogConstructor: kube.Logger(mgr, "VSphereMachine"),
	})
	if err != nil {
		return nil, fmt.Errorf("adding the lifecycle controller: %w", err)
	}
	pools, err := allocator.CoolingSources(mgr, machines, providers, r.machinesCoolingIn)
	if err != nil {
		return nil, err
	}
	return append(r.sources(machines, mgr.GetCache()), pools...), nil
}

func (r *Reconciler) sources(c controller.Controller, from cache.Cache) []informers.Source {
	machine, vm := &capi.VSphereMachine{}, &capi.VSphereVM{}
	sources := []informers.Source{
		{Object: machine, Started: watch(c, from, machine, client.Object.GetName, r.noteGone)},
		{Object: vm, Started: r.watchVMs(c, from, vm)},
		{Object: &capi.Cluster{}, Started: func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind[client.Object](from, &capi.Cluster{},
				handler.EnqueueRequestsFromMapFunc(r.machinesOfCluster), resumed()))
		}},
	}
	for _, provider := range r.providers {
		claim, address := provider.Kinds()
		ofAddress := machineOfAddress(provider)
		sources = append(sources,
			informers.Source{Object: claim, Indexes: indexClaims(provider), Started: watch(c, from, claim, machineOfClaim, r.noteGone)},
			informers.Source{Object: address, Indexes: indexAddresses(provider), Started: watch(c, from, address, ofAddress, r.forgetGone)})
	}
	return sources
}

// batchDelay is how long a change waits for others to come with it, unless
// something is being deleted. While machines are made, each of them, its claim
// and its address are written some ten times within a second, and what is done
// about one machine then is at the expense of the next.
const batchDelay = time.Second

// watchVMs enqueues the machine that owns a VM, and, when the VM is gone, those
// whose addresses it had: an owner it need not have.
func (r *Reconciler) watchVMs(c controller.Controller, from cache.Cache, vm client.Object) func(context.Context, cache.Informer) error {
	owners := watch(c, from, vm, func(vm client.Object) string { return capi.OwnerMachine(vm).Name }, ignoreGone)
	gone := handler.Funcs{DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		for _, machine := range r.machinesOn(ctx, e.Object.(*capi.VSphereVM)) {
			q.Add(reconcile.Request{NamespacedName: machine})
		}
	}}
	return func(ctx context.Context, informer cache.Informer) error {
		if err := owners(ctx, informer); err != nil {
			return err
		}
		return c.Watch(source.Kind(from, vm, gone))
	}
}

// goneFunc is told the last state of an object that is gone, and the machine that
// it was about.
type goneFunc func(machine types.NamespacedName, last client.Object)

func ignoreGone(types.NamespacedName, client.Object) {}

// watch enqueues the machine that an object is about.
func watch(c controller.Controller, from cache.Cache, kind client.Object, machineOf func(client.Object) string, gone goneFunc) func(context.Context, cache.Informer) error {
	enqueue := func(q workqueue.TypedRateLimitingInterface[reconcile.Request], obj client.Object, after time.Duration) {
		name := machineOf(obj)
		if name == "" {
			return
		}
		if !obj.GetDeletionTimestamp().IsZero() {
			after = 0
		}
		q.AddAfter(reconcile.Request{NamespacedName: keyIn(obj, name)}, after)
	}
	events := handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(q, e.Object, batchDelay)
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(q, e.ObjectOld, batchDelay)
			enqueue(q, e.ObjectNew, batchDelay)
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			gone(keyIn(e.Object, machineOf(e.Object)), e.Object)
			enqueue(q, e.Object, 0)
		},
	}
	return func(context.Context, cache.Informer) error {
		return c.Watch(source.Kind(from, kind, events))
	}
}

// resumed passes the events after which a Cluster no longer holds anything up.
func resumed() predicate.Predicate {
	paused := func(obj client.Object) bool {
		cluster, ok := obj.(*capi.Cluster)
		return ok && cluster.IsPaused()
	}
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(e event.UpdateEvent) bool { return paused(e.ObjectOld) && !paused(e.ObjectNew) },
		DeleteFunc:  func(e event.DeleteEvent) bool { return paused(e.Object) },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// machinesOfCluster lists the machines of a Cluster, and those that its claims
// and addresses name: they may be all that is left.
func (r *Reconciler) machinesOfCluster(ctx context.Context, cluster client.Object) []reconcile.Request {
	type kind struct {
		list      client.Object
		machineOf func(client.Object) string
	}
	kinds := []kind{{&capi.VSphereMachine{}, client.Object.GetName}}
	for _, provider := range r.providers {
		claim, address := provider.Kinds()
		kinds = append(kinds, kind{claim, machineOfClaim}, kind{address, machineOfAddress(provider)})
	}
	var requests []reconcile.Request
	for _, kind := range kinds {
		objects, err := kube.List(ctx, r.client, kind.list, client.InNamespace(cluster.GetNamespace()),
			client.MatchingLabels{clusterv1.ClusterNameLabel: cluster.GetName()})
		if err != nil {
			// The periodic resync brings what is missed here.
			continue
		}
		for _, obj := range objects {
			if name := kind.machineOf(obj); name != "" {
				requests = append(requests, reconcile.Request{NamespacedName: keyIn(obj, name)})
			}
		}
	}
	return requests
}
