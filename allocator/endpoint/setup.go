package endpoint

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/limit"
)

// Names of cache indexes.
const (
	// byCluster finds claims and addresses by the VSphereCluster that they name.
	byCluster = "capv-static-ip.dev/vspherecluster"
	// byIP finds addresses of endpoints by what they are.
	byIP = "capv-static-ip.dev/endpoint-ip"
	// byCoolingPool finds addresses of endpoints that cool down, by their pool.
	byCoolingPool = "capv-static-ip.dev/endpoint-cooling"
)

// Periods are how long things are left as they are, and until when they must be.
type Periods struct {
	// Freezer finds what is not to be given back at all now.
	Freezer allocator.Freezer
	// OrphanGrace is for claims whose VSphereCluster was never stored.
	OrphanGrace time.Duration
	// ReuseAfter is for addresses whose Clusters are gone, where their pool says nothing.
	ReuseAfter time.Duration
}

// Setup adds the controller to the manager. It runs on the elected replica only. The
// sources that it returns must be started, on every replica.
func Setup(mgr manager.Manager, providers ipam.Providers, recorder events.EventRecorder, periods Periods) ([]informers.Source, error) {
	r := &reconciler{
		providers: providers, client: mgr.GetClient(), live: mgr.GetAPIReader(), events: recorder,
		grace: periods.OrphanGrace, reuseAfter: periods.ReuseAfter, freezer: periods.Freezer, pools: mgr.GetCache(), now: time.Now,
	}
	c, err := controller.New("endpoint", mgr, controller.Options{
		Reconciler: r, RateLimiter: limit.Failures[reconcile.Request](), LogConstructor: kube.Logger(mgr, "VSphereCluster"),
	})
	if err != nil {
		return nil, fmt.Errorf("adding the controller of endpoints: %w", err)
	}
	pools, err := allocator.CoolingSources(mgr, c, providers, r.coolingIn)
	if err != nil {
		return nil, err
	}
	return append(r.sources(c, mgr.GetCache()), pools...), nil
}

func (r *reconciler) sources(c controller.Controller, from cache.Cache) []informers.Source {
	object := &capi.VSphereCluster{}
	cluster := &capi.Cluster{}
	sources := []informers.Source{
		{Object: object, Started: watch(c, from, object, client.Object.GetName, r.memory.noteDeparture)},
		{Object: cluster, Started: func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind[client.Object](from, cluster, handler.EnqueueRequestsFromMapFunc(r.endpointsOf)))
		}},
	}
	for _, provider := range r.providers {
		claim, address := provider.Kinds()
		ofAddress := func(obj client.Object) string { return clusterOf(obj, provider.ReadAddress(obj).Claim) }
		sources = append(sources,
			informers.Source{Object: claim, Indexes: map[string]client.IndexerFunc{byCluster: index(clusterOfClaim)}, Started: watch(c, from, claim, clusterOfClaim, r.memory.forget)},
			informers.Source{Object: address, Indexes: map[string]client.IndexerFunc{
				byCluster:     index(ofAddress),
				byCoolingPool: indexCooling(provider),
				byIP: func(obj client.Object) []string {
					if ofAddress(obj) == "" {
						return nil
					}
					return []string{capi.ParseAddress(provider.ReadAddress(obj).IP).String()}
				},
			}, Started: watch(c, from, address, ofAddress, r.memory.forget)})
	}
	return sources
}

func index(nameOf func(client.Object) string) client.IndexerFunc {
	return func(obj client.Object) []string {
		if name := nameOf(obj); name != "" {
			return []string{name}
		}
		return nil
	}
}

// clusterOfClaim is the VSphereCluster that a claim names.
func clusterOfClaim(claim client.Object) string { return clusterOf(claim, claim.GetName()) }

// laterTry ends the name of a claim that was made after another one was set aside.
var laterTry = regexp.MustCompile(`\.r[0-9]+$`)

// clusterOf is the VSphereCluster that a claim of this name, or its address, names: by our
// annotation or, where clusterctl has taken that off, by the claim's name and our label.
func clusterOf(obj client.Object, claim string) string {
	if holder := ipam.HolderOf(obj); holder.Name != "" {
		if holder.Kind != ipam.OfCluster {
			return ""
		}
		return holder.Name
	}
	for _, name := range []string{claim, laterTry.ReplaceAllString(claim, "")} {
		if (ipam.Holder{Kind: ipam.OfCluster, Name: name}).IsLabelled(obj) {
			return name
		}
	}
	return ""
}

// watch enqueues the VSphereCluster that an object is about.
func watch(c controller.Controller, from cache.Cache, kind client.Object, nameOf func(client.Object) string, gone func(client.Object)) func(context.Context, cache.Informer) error {
	enqueue := func(q workqueue.TypedRateLimitingInterface[reconcile.Request], obj client.Object) {
		if name := nameOf(obj); name != "" {
			q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: name}})
		}
	}
	events := handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(q, e.Object)
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(q, e.ObjectOld)
			enqueue(q, e.ObjectNew)
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			gone(e.Object)
			enqueue(q, e.Object)
		},
	}
	return func(context.Context, cache.Informer) error {
		return c.Watch(source.Kind(from, kind, events))
	}
}

// endpointsOf are the VSphereClusters that a Cluster matters to: the one that it runs on,
// and those whose address is its endpoint, wherever they are.
func (r *reconciler) endpointsOf(ctx context.Context, obj client.Object) []reconcile.Request {
	cluster, ok := obj.(*capi.Cluster)
	if !ok {
		return nil
	}
	var requests []reconcile.Request
	add := func(namespace, name string) {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
	}
	if on := cluster.Spec.InfrastructureRef; on.Kind == capi.VSphereClusterKind.Kind {
		add(cluster.Namespace, on.Name)
	}
	for _, provider := range r.providers {
		for _, place := range cluster.Addresses() {
			addresses, err := kube.List(ctx, r.client, ipam.EmptyAddress(provider), client.MatchingFields{byIP: place.IP.String()})
			if err != nil {
				// The periodic resync brings what is missed here.
				continue
			}
			for _, address := range addresses {
				add(address.GetNamespace(), clusterOf(address, provider.ReadAddress(address).Claim))
			}
		}
	}
	return requests
}
