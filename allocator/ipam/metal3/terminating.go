package metal3

import (
	"context"
	"fmt"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/limit"
)

// touchedAnnotation on a terminating pool is the time of the last touch.
const touchedAnnotation = "capv-static-ip.dev/touched"

// byPool is the name of the cache index that finds addresses by the name of their pool.
const byPool = "capv-static-ip.dev/ippool"

func indexByPool(address client.Object) []string {
	return []string{address.(*ipamv1.IPAddress).Spec.Pool.Name}
}

const (
	minTouchInterval = time.Second
	maxTouchInterval = time.Minute
)

// poolReconciler makes metal3 finish the deletion of IPPools. metal3 counts a pool's addresses
// when a claim or the pool changes, and at its resync every 10 minutes; an
// address that we unprotect after that goes unseen, and the pool, and with it
// the namespace, stays. Touching the pool makes metal3 count again. The
// in-cluster provider counts whenever an address goes.
type poolReconciler struct {
	client client.Client
}

// Setup adds to the manager what makes metal3 finish the deletion of IPPools.
// It runs on the elected replica only. The sources that it returns must be
// started, on every replica.
func Setup(mgr manager.Manager) ([]informers.Source, error) {
	p := &poolReconciler{client: mgr.GetClient()}
	c, err := controller.New("terminating-pool", mgr, controller.Options{
		Reconciler: p, RateLimiter: limit.Failures[reconcile.Request](),
		LogConstructor: kube.Logger(mgr, "IPPool"),
	})
	if err != nil {
		return nil, fmt.Errorf("adding the terminating-pool controller: %w", err)
	}
	return p.sources(c, mgr.GetCache()), nil
}

func (p *poolReconciler) sources(c controller.Controller, from cache.Cache) []informers.Source {
	pool, address := client.Object(&ipamv1.IPPool{}), client.Object(&ipamv1.IPAddress{})
	poolOf := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, obj client.Object) []reconcile.Request {
		name := obj.(*ipamv1.IPAddress).Spec.Pool.Name
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: name}}}
	})
	return []informers.Source{
		{Object: pool, Started: func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind(from, pool, &handler.EnqueueRequestForObject{}))
		}},
		{Object: address, Indexes: map[string]client.IndexerFunc{byPool: indexByPool}, Started: func(context.Context, cache.Informer) error {
			return c.Watch(source.Kind(from, address, poolOf))
		}},
	}
}

// Reconcile implements reconcile.Reconciler. The touch is repeated while the
// pool stays, ever more rarely: metal3's cache may not have seen the last
// address go when the first touch arrives.
func (p *poolReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	pool := &ipamv1.IPPool{}
	if err := p.client.Get(ctx, req.NamespacedName, pool); err != nil {
		if kube.IsAbsent(err) {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("reading pool %s: %w", req.NamespacedName, err)
	}
	if pool.GetDeletionTimestamp().IsZero() {
		return reconcile.Result{}, nil
	}
	// The index is right when the event comes that has this called, as a ledger need not be.
	addresses := &ipamv1.IPAddressList{}
	err := p.client.List(ctx, addresses, client.InNamespace(req.Namespace), client.MatchingFields{byPool: req.Name}, client.Limit(1), client.UnsafeDisableDeepCopy)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("listing the addresses of pool %s: %w", req.NamespacedName, err)
	}
	if len(addresses.Items) > 0 {
		return reconcile.Result{}, nil
	}
	return p.touch(ctx, pool, time.Now())
}

func (p *poolReconciler) touch(ctx context.Context, pool client.Object, now time.Time) (reconcile.Result, error) {
	next := nextTouch(pool, now)
	if wait := next.Sub(now); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	before := pool.DeepCopyObject().(client.Object)
	kube.SetAnnotation(pool, touchedAnnotation, now.UTC().Format(time.RFC3339Nano))
	if err := p.client.Patch(ctx, pool, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("touching pool %s: %w", klog.KObj(pool), err)
	}
	klog.FromContext(ctx).Info("Touched a terminating pool whose addresses are gone", "pool", klog.KObj(pool))
	return reconcile.Result{RequeueAfter: minTouchInterval}, nil
}

// nextTouch is when a terminating pool is to be touched: at once the first
// time, then after as long again as it has been terminating, within bounds.
func nextTouch(pool metav1.Object, now time.Time) time.Time {
	last, err := time.Parse(time.RFC3339Nano, pool.GetAnnotations()[touchedAnnotation])
	if err != nil || last.Before(pool.GetDeletionTimestamp().Time) {
		return now
	}
	interval := last.Sub(pool.GetDeletionTimestamp().Time)
	return last.Add(min(max(interval, minTouchInterval), maxTouchInterval))
}
