package aside

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// reviewInterval is how often it is looked whether the cause is gone: nothing
// tells of that for all causes.
const reviewInterval = 30 * time.Second

// engine is what is needed of the allocator.
type engine interface {
	// IsStillUnfit tells whether the cause lasts for which an address was set
	// aside. The pool is nil if it cannot be read.
	IsStillUnfit(ctx context.Context, claim ipam.Claim, content ipam.SetAside) (pool client.Object, unfit bool, err error)
	// Frozen tells whether claims of a namespace on a pool are frozen.
	Frozen(ctx context.Context, namespace string, pool ipam.PoolReference) (bool, error)
}

// reconciler reviews the claims of one provider.
type reconciler struct {
	engine   engine
	provider ipam.Provider
	client   client.Client
	live     client.Reader
	events   events.EventRecorder

	mu sync.Mutex
	// known are the claims that are set aside now, and for what.
	known map[types.NamespacedName]ipam.SetAside
}

// Reconcile implements reconcile.Reconciler.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	obj := ipam.EmptyClaim(r.provider)
	if err := r.client.Get(ctx, req.NamespacedName, obj); err != nil {
		r.forget(req.NamespacedName)
		if kube.IsAbsent(err) {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("reading claim %s: %w", req.NamespacedName, err)
	}
	content, is := ipam.SetAsideOf(obj)
	if !is {
		r.forget(req.NamespacedName)
		return reconcile.Result{}, nil
	}
	claim := r.provider.ReadClaim(obj)
	if !obj.GetDeletionTimestamp().IsZero() {
		return reconcile.Result{RequeueAfter: reviewInterval}, r.dropIfAbandoned(ctx, claim)
	}
	pool, unfit, err := r.engine.IsStillUnfit(ctx, claim, content)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("reviewing claim %s: %w", req.NamespacedName, err)
	}
	if wait := allocator.UntilStored(obj); !unfit && wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	if !unfit {
		return r.giveBackUnlessFrozen(ctx, claim, content)
	}
	if r.note(req.NamespacedName, content) && pool != nil {
		r.events.Eventf(pool, obj, corev1.EventTypeWarning, "AddressSetAside", "Review",
			"%s cannot be given to a machine (%s): claim %s keeps it from being handed out while that lasts", content.IP, content.Cause, obj.GetName())
	}
	return reconcile.Result{RequeueAfter: reviewInterval}, nil
}

// giveBackUnlessFrozen lets the provider have the address again, or waits.
func (r *reconciler) giveBackUnlessFrozen(ctx context.Context, claim ipam.Claim, content ipam.SetAside) (reconcile.Result, error) {
	frozen, err := r.engine.Frozen(ctx, claim.GetNamespace(), claim.Pool)
	switch {
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("reviewing claim %s: %w", klog.KObj(claim), err)
	case frozen:
		return reconcile.Result{RequeueAfter: allocator.FrozenCheck}, nil
	}
	return reconcile.Result{}, r.giveBack(ctx, claim.Object, content)
}

// giveBack lets the provider have the address again.
func (r *reconciler) giveBack(ctx context.Context, claim client.Object, content ipam.SetAside) error {
	if err := kube.DeleteAsRead(ctx, r.client, claim); err != nil {
		return fmt.Errorf("giving back claim %s: %w", klog.KObj(claim), err)
	}
	klog.FromContext(ctx).Info("Gave back an address that was set aside", "claim", klog.KObj(claim), "address", content.IP)
	return nil
}

// dropIfAbandoned takes the finalizers off a claim that is being deleted if its
// provider never will.
func (r *reconciler) dropIfAbandoned(ctx context.Context, claim ipam.Claim) error {
	abandoned, err := ipam.Abandons(ctx, r.client, r.live, r.provider, claim)
	if err != nil || !abandoned {
		return err
	}
	return ipam.DropFinalizers(ctx, r.client, r.provider, claim.Object)
}

// note remembers a claim, and tells whether it is new.
func (r *reconciler) note(claim types.NamespacedName, content ipam.SetAside) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.known[claim]
	if !known {
		r.known[claim] = content
		setAside.WithLabelValues(string(content.Cause)).Inc()
	}
	return !known
}

// claimsAside are the claims that keep an address aside which something has, or
// had until now.
func (r *reconciler) claimsAside(_ context.Context, user client.Object) []reconcile.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) == 0 {
		return nil
	}
	var requests []reconcile.Request
	for claim, content := range r.known {
		if slices.ContainsFunc(user.(capi.User).Addresses(), func(p capi.Place) bool { return p.IP == content.IP }) {
			requests = append(requests, reconcile.Request{NamespacedName: claim})
		}
	}
	return requests
}

func (r *reconciler) forget(claim types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if content, known := r.known[claim]; known {
		delete(r.known, claim)
		setAside.WithLabelValues(string(content.Cause)).Dec()
	}
}
