package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vsphereclusters,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspherevms;vspheremachines,verbs=get;list;watch
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=get;list;watch

// conflictRetry is the time in which a watch usually brings what an update conflicted
// with.
const conflictRetry = 50 * time.Millisecond

// reconciler takes the endpoint of each VSphereCluster one step further. It is keyed by
// the VSphereCluster's name, because claims and addresses outlive it.
type reconciler struct {
	providers ipam.Providers
	client    client.Client
	live      client.Reader
	events    events.EventRecorder
	grace     time.Duration
	// reuseAfter is for how long addresses cool down whose pools say nothing of that.
	reuseAfter time.Duration
	// freezer finds what is frozen.
	freezer allocator.Freezer
	// pools reads pools from the cache.
	pools client.Reader
	// now is the leader's own clock.
	now func() time.Time

	memory memory
	// cooling counts what cools down now.
	cooling allocator.Census
}

// Reconcile implements reconcile.Reconciler.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	s, err := r.observe(ctx, req.NamespacedName)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("observing VSphereCluster %s: %w", req.NamespacedName, err)
	}
	requeue, err := r.performAll(ctx, s)
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: conflictRetry}, nil
	}
	// A claim that cannot be given back now is found by its marks without the
	// VSphereCluster, which must not wait for a provider that is down.
	if err := errors.Join(err, r.removeFinalizer(ctx, s)); err != nil {
		return reconcile.Result{}, err
	}
	if !s.exists && len(s.holdings) == 0 {
		r.memory.forgetDeparture(req.NamespacedName)
	}
	return reconcile.Result{RequeueAfter: requeue}, nil
}

// performAll takes each holding its next step, and returns after what time there is
// another one to take.
func (r *reconciler) performAll(ctx context.Context, s *state) (time.Duration, error) {
	var requeue time.Duration
	for _, h := range s.holdings {
		next, wait, err := r.decide(ctx, s, h)
		if err != nil {
			return 0, err
		}
		if wait > 0 && (requeue == 0 || wait < requeue) {
			requeue = wait
		}
		if err := r.perform(ctx, s, h, next); err != nil {
			return 0, fmt.Errorf("performing %q: %w", next, err)
		}
	}
	return requeue, nil
}

// decide decides by the cache and, if the step frees, once more by what the API server
// says: of the claim, then of the VSphereCluster, then of what uses the address. A
// request that uses the claim stamps it before the VSphereCluster is stored, so either
// that stamp is read here, or the write that follows conflicts. The step is taken only if
// both decisions are the same.
func (r *reconciler) decide(ctx context.Context, s *state, h *holding) (step, time.Duration, error) {
	next, wait := decide(s.clusterState, *h, r.now(), r.grace)
	frozen, err := r.keepFrozen(ctx, s, h, next)
	switch {
	case err != nil:
		return idle, 0, err
	case frozen:
		return idle, allocator.FrozenCheck, nil
	case !next.frees():
		return next, wait, nil
	}
	if err := r.rereadClaim(ctx, s, h); err != nil {
		return idle, 0, err
	}
	if next == deleteStray && h.claim != nil && h.claim.Address != "" && h.claim.Address != h.address.GetName() {
		// Its provider made two for the claim, which has the other one.
		h.claim = nil
	}
	fresh := &state{key: s.key}
	if err := r.observeCluster(ctx, fresh, r.live); err != nil {
		return idle, 0, err
	}
	fresh.paused = s.paused
	if h.used, err = r.isUsed(ctx, s.key, h); err != nil {
		return idle, 0, err
	}
	second, wait := decide(fresh.clusterState, *h, r.now(), r.grace)
	if second != next && second != idle {
		// The rest of the state is still as the cache had it.
		return idle, behindCheck, nil
	}
	return second, wait, nil
}

// rereadClaim reads the claim of a holding, or the one that its address is of, again.
func (r *reconciler) rereadClaim(ctx context.Context, s *state, h *holding) error {
	var provider ipam.Provider
	var name string
	if h.claim != nil {
		provider, name = r.providers.OfClaim(h.claim.Object), h.claim.GetName()
	} else {
		provider, name = r.providers.OfAddress(h.address.Object), h.address.Claim
	}
	obj := ipam.EmptyClaim(provider)
	err := r.live.Get(ctx, types.NamespacedName{Namespace: s.key.Namespace, Name: name}, obj)
	switch {
	case apierrors.IsNotFound(err):
		h.claim = nil
	case err != nil:
		return fmt.Errorf("reading claim %s: %w", name, err)
	default:
		claim := provider.ReadClaim(obj)
		h.claim = &claim
		h.seen = r.memory.see(obj, r.now())
	}
	return nil
}

// isUsed tells whether a Cluster that is not being deleted has the address as its
// endpoint, or anything else in the namespace has it: a VM of the cluster may be left
// that answers on it. Clusters of the namespace are read from the API server, where one
// may just have got it; what else has it, the cache finds and the API server confirms.
func (r *reconciler) isUsed(ctx context.Context, key types.NamespacedName, h *holding) (bool, error) {
	place := capi.Place{IP: h.ip()}
	if !place.IP.IsValid() {
		return false, nil
	}
	clusters := &capi.ClusterList{}
	if err := r.live.List(ctx, clusters, client.InNamespace(key.Namespace)); err != nil {
		return false, fmt.Errorf("listing Clusters: %w", err)
	}
	for i := range clusters.Items {
		if uses(&clusters.Items[i], place) {
			return true, nil
		}
	}
	users, err := r.search().Users(ctx, types.NamespacedName{}, place)
	if err != nil {
		return false, err
	}
	for _, user := range users {
		switch object := user.Object.(type) {
		case *capi.Cluster:
			if uses(object, place) {
				return true, nil
			}
		case *capi.VSphereCluster:
			if user.NamespacedName != key && user.Namespace == key.Namespace && object.DeletionTimestamp.IsZero() {
				return true, nil
			}
		default:
			if user.Namespace == key.Namespace {
				return true, nil
			}
		}
	}
	return false, nil
}

// uses tells whether a Cluster that is not being deleted has an address as its endpoint.
func uses(cluster *capi.Cluster, place capi.Place) bool {
	return cluster.DeletionTimestamp.IsZero() && slices.Contains(cluster.Addresses(), place)
}

func (r *reconciler) perform(ctx context.Context, s *state, h *holding, next step) error {
	switch next {
	case adopt:
		return r.adopt(ctx, s, h)
	case protect:
		return r.protect(ctx, s, h)
	case markMoved:
		return r.markMoved(ctx, h)
	case cool:
		return r.cool(ctx, s, h)
	case release:
		return r.release(ctx, s, h)
	case reap:
		klog.FromContext(ctx).Info("Reaping a claim that no VSphereCluster uses", "claim", klog.KObj(h.claim))
		return r.deleteClaim(ctx, h)
	case unprotect:
		return r.unprotect(ctx, h)
	case deleteStray:
		return allocator.DeleteStray(ctx, r.client, *h.address)
	case removeClaimFinalizer:
		return r.removeClaimFinalizer(ctx, h.claim.Object)
	case recreate:
		return r.recreate(ctx, s, h)
	case verify:
		return r.verify(ctx, s, h)
	case deleteFailed:
		return r.deleteFailed(ctx, s, h)
	case report:
		r.report(ctx, s, h)
	case idle:
	}
	return nil
}
