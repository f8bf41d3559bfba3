package retry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/limit"
)

// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=machinesets,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=controlplane.cluster.x-k8s.io,resources=kubeadmcontrolplanes,verbs=get;list;watch;patch

const (
	// resync is how often a pool is looked at for which somebody waits, if nothing
	// happens that is known to matter: what a pool can serve may depend on more.
	resync = 30 * time.Second
	// resyncUnwatched is that of pools of which nothing is heard: not when they
	// change, nor when somebody grants the right to read them.
	resyncUnwatched = 10 * time.Second
	// readTimeout bounds the read of one pool, for which all others wait.
	readTimeout = 5 * time.Second
)

// Limits. Anybody who may write an owner can have it wait for any pools; and what
// CAPI does after a touch costs more than the touch.
const (
	// Reads of pools that are not watched, for one namespace and for all.
	namespaceReadsPerSecond, namespaceReadsBurst = 2, 10
	readsPerSecond, readsBurst                   = 20, 40
	// Touches, which leave CAPI the time to make what it is to try.
	touchesPerSecond, touchesBurst = 20, 20
	// touchDelay is for how long a touch that would be too many now is put off.
	touchDelay = 250 * time.Millisecond
)

// pools is what is needed of IPAM.
type pools interface {
	// Pool reads a pool as this machine sees it. It returns a Refusal if the
	// pool cannot serve.
	Pool(ctx context.Context, reader client.Reader, machine ipam.Machine, want ipam.Want) (ipam.Pool, error)
}

// poolKey is a pool, with the namespace of the pool or of those who wait for it.
// A cluster-scoped pool serves all namespaces, and has none. Without a pool it is
// for all refused owners of the namespace.
type poolKey struct {
	ipam.PoolReference
	Namespace string
}

// reconciler touches the owners that wait for a pool, and now and then all
// others. One worker runs it, so that touches are counted.
type reconciler struct {
	pools  pools
	client client.Client
	// freezer finds what is frozen.
	freezer allocator.Freezer
	now     func() time.Time
	// watched are the kinds of pools that are read from the cache.
	watched map[schema.GroupKind]bool

	// records are those of pools for which somebody waited lately, rounds those of
	// namespaces in which somebody was refused lately.
	records map[poolKey]*record
	rounds  map[string]*round
	changes changes

	readsOfOne     *limit.PerNamespace
	reads, touches *rate.Limiter
}

func newReconciler(p pools, c client.Client) *reconciler {
	return &reconciler{
		pools: p, client: c, now: time.Now, watched: map[schema.GroupKind]bool{},
		records: map[poolKey]*record{}, rounds: map[string]*round{},
		readsOfOne: limit.NewPerNamespace(namespaceReadsPerSecond, namespaceReadsBurst),
		reads:      rate.NewLimiter(readsPerSecond, readsBurst), touches: rate.NewLimiter(touchesPerSecond, touchesBurst),
	}
}

// Reconcile implements reconcile.TypedReconciler.
func (r *reconciler) Reconcile(ctx context.Context, key poolKey) (reconcile.Result, error) {
	if key.PoolReference == (ipam.PoolReference{}) {
		return r.patrol(ctx, key.Namespace)
	}
	owners, err := r.waiting(ctx, key)
	if err != nil {
		return reconcile.Result{}, err
	}
	if len(owners) == 0 && r.records[key] == nil {
		return reconcile.Result{}, nil
	}
	again := resync
	if !r.watched[schema.GroupKind{Group: key.APIGroup, Kind: key.Kind}] {
		if !r.mayRead(key.Namespace) {
			return reconcile.Result{RequeueAfter: resync}, nil
		}
		again = resyncUnwatched
	}
	pool, err := r.pool(ctx, key, owners)
	if _, refused := ipam.AsRefusal(err); refused {
		return r.lookAgain(key, owners, again), nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("reading %s: %w", key.PoolReference, err)
	}
	if _, frozen := ipam.IsFrozen(pool); frozen {
		return r.lookAgain(key, owners, again), nil
	}
	if pool.GetNamespace() != key.Namespace {
		key.Namespace = pool.GetNamespace()
		if owners, err = r.waiting(ctx, key); err != nil {
			return reconcile.Result{}, err
		}
	}
	wait, err := r.serve(ctx, r.recordOf(key), pool, owners)
	if len(owners) == 0 {
		return reconcile.Result{}, err
	}
	if wait == 0 || wait > again {
		wait = again
	}
	return reconcile.Result{RequeueAfter: wait}, err
}

// mayRead tells whether there may be one read more for a namespace.
func (r *reconciler) mayRead(namespace string) bool {
	now := r.now()
	return r.readsOfOne.Allow(namespace, now) && r.reads.AllowN(now, 1)
}

// lookAgain looks again later at a pool that serves nobody now.
func (r *reconciler) lookAgain(key poolKey, owners []metav1.PartialObjectMetadata, again time.Duration) reconcile.Result {
	if rec := r.records[key]; rec != nil {
		rec.observe(0, r.now())
	}
	if len(owners) == 0 {
		return reconcile.Result{}
	}
	return reconcile.Result{RequeueAfter: again}
}

// pool reads the pool as one of its waiting owners sees it.
func (r *reconciler) pool(ctx context.Context, key poolKey, owners []metav1.PartialObjectMetadata) (ipam.Pool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var machine ipam.Machine
	machine.Namespace = key.Namespace
	if len(owners) > 0 {
		machine.Namespace, machine.Cluster = owners[0].Namespace, owners[0].Labels[clusterv1.ClusterNameLabel]
	}
	return r.pools.Pool(ctx, r.client, machine, ipam.Want{Pool: key.PoolReference})
}

// serve touches the owners whose turn it is. It returns when to look again.
func (r *reconciler) serve(ctx context.Context, rec *record, pool ipam.Pool, owners []metav1.PartialObjectMetadata) (time.Duration, error) {
	waiters := make([]waiter, 0, len(owners))
	byUID := make(map[types.UID]*metav1.PartialObjectMetadata, len(owners))
	names := []string{""}
	for i := range owners {
		heldUp, err := r.isHeldUp(ctx, &owners[i])
		if err != nil {
			return 0, err
		}
		if heldUp {
			continue
		}
		w := waiter{
			NamespacedName: client.ObjectKeyFromObject(&owners[i]), uid: owners[i].UID,
			needed: shortagesOf(&owners[i])[Obstacle{Pool: pool.Reference}],
		}
		waiters = append(waiters, w)
		byUID[w.uid] = &owners[i]
		names = append(names, make([]string, w.needed)...)
	}
	// Where the provider does not say, trying is the way to find out.
	free := uint64(math.MaxUint64)
	if pool.Free != nil {
		// The count is exact where it is not enough for all. Claims without a
		// name have no address reserved.
		free, _ = pool.Free(names)
	}
	now := r.now()
	rec.observe(free, now)
	due, wait := rec.next(waiters, now)
	var errs []error
	for _, w := range due {
		if !r.touches.AllowN(now, 1) {
			return touchDelay, errors.Join(errs...)
		}
		if err := r.touch(ctx, byUID[w.uid], pool.Reference.String()); err != nil {
			errs = append(errs, err)
			continue
		}
		rec.touched(w, now)
	}
	return wait, errors.Join(errs...)
}

// touch takes the annotation off. It does so without a lock: if a refusal for
// another cause has just been added, that is older than this touch, too. The condition
// goes when it shows that this has helped, see settle.
func (r *reconciler) touch(ctx context.Context, owner *metav1.PartialObjectMetadata, why string) error {
	after := owner.DeepCopy() // the cache's own stays as it is
	delete(after.Annotations, ipam.RefusedByAnnotation)
	after.Annotations[ipam.TriedAgainAnnotation] = r.now().UTC().Format(time.RFC3339)
	if err := r.client.Patch(ctx, after, client.MergeFrom(owner)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("touching %s %s: %w", owner.Kind, klog.KObj(owner), err)
	}
	ownersTouched.Inc()
	r.roundOf(owner.Namespace).touched(owner.UID, r.now())
	klog.FromContext(ctx).Info("Made an owner of refused machines try again", "kind", owner.Kind, "owner", klog.KObj(owner), "why", why)
	return nil
}

// waiting lists the owners that wait for the pool, or all, in the key's namespace
// or, if that is empty, in all.
func (r *reconciler) waiting(ctx context.Context, key poolKey) ([]metav1.PartialObjectMetadata, error) {
	if key.PoolReference == (ipam.PoolReference{}) {
		return r.owners(ctx, key.Namespace, anyObstacle)
	}
	return r.owners(ctx, key.Namespace, key.String())
}

// owners lists those that are indexed by this value, in one namespace or in all.
func (r *reconciler) owners(ctx context.Context, namespace, value string) ([]metav1.PartialObjectMetadata, error) {
	var owners []metav1.PartialObjectMetadata
	for _, kind := range OwnerKinds() {
		list := kube.MetadataListOf(capi.InScheme(r.client.Scheme(), kind))
		err := r.client.List(ctx, list, client.InNamespace(namespace), client.MatchingFields{byPool: value},
			client.UnsafeDisableDeepCopy)
		if err != nil && !kube.IsAbsent(err) {
			return nil, fmt.Errorf("listing the %ss that wait for %s: %w", kind.Kind, value, err)
		}
		for i := range list.Items {
			if list.Items[i].DeletionTimestamp.IsZero() {
				owners = append(owners, list.Items[i])
			}
		}
	}
	return owners, nil
}

// isHeldUp tells whether CAPI would not act on a touch, or would be refused for certain. A
// Cluster that does not exist is not paused.
func (r *reconciler) isHeldUp(ctx context.Context, owner *metav1.PartialObjectMetadata) (bool, error) {
	if annotations.HasPaused(owner) {
		return true, nil
	}
	if freeze, err := r.freezer.Namespace(ctx, r.client, owner.Namespace); freeze != nil || err != nil {
		return true, err
	}
	name := owner.Labels[clusterv1.ClusterNameLabel]
	if name == "" {
		return false, nil
	}
	cluster := &capi.Cluster{}
	err := r.client.Get(ctx, types.NamespacedName{Namespace: owner.Namespace, Name: name}, cluster)
	if kube.IsAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Cluster %s/%s: %w", owner.Namespace, name, err)
	}
	return isPaused(cluster), nil
}

// recordOf is what is remembered of a pool. What is remembered of others is
// forgotten here when it no longer matters.
func (r *reconciler) recordOf(key poolKey) *record {
	now := r.now()
	for other, rec := range r.records {
		if other != key && rec.forgettable(now) {
			delete(r.records, other)
		}
	}
	if r.records[key] == nil {
		r.records[key] = &record{}
	}
	return r.records[key]
}

func shortagesOf(owner client.Object) Shortages {
	return ParseShortages(owner.GetAnnotations()[ipam.RefusedByAnnotation])
}

func isPaused(cluster client.Object) bool {
	c, ok := cluster.(*capi.Cluster)
	return ok && c.IsPaused()
}
