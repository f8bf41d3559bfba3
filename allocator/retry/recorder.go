package retry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=machinesets,verbs=get;patch
// +kubebuilder:rbac:groups=controlplane.cluster.x-k8s.io,resources=kubeadmcontrolplanes,verbs=get;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

const (
	// maxPending bounds the owners that wait to be written, and maxPendingOfOne
	// those of one namespace, which are written within seconds: whoever may create
	// machines can name any owners. One that does not fit is written when CAPI
	// tries again by itself and is refused again.
	maxPending      = 1000
	maxPendingOfOne = 100
	// maxRetries bounds the tries to write one owner, likewise.
	maxRetries = 5
	// writeTimeout bounds each try.
	writeTimeout = 10 * time.Second
)

// refusedOwner is the object for which a machine was to be made.
type refusedOwner struct {
	kind schema.GroupKind
	types.NamespacedName
	uid types.UID
}

// note is what is to be written on one owner.
type note struct {
	Shortages
	// last is the refusal that came last. It is nil if none of them was ours, but
	// that of something after the webhook.
	last *ipam.Refusal
}

// Recorder writes on the owners of refused machines why they were, for the
// controller that makes CAPI try again, and for people. It works beside the requests:
// an answer never waits for it.
type Recorder struct {
	client client.Client
	// cache finds owners by UID.
	cache client.Client
	// events tells MachineDeployments what their MachineSets were refused: people look there.
	events events.EventRecorder
	queue  workqueue.TypedRateLimitingInterface[refusedOwner]

	mu      sync.Mutex
	pending map[refusedOwner]*note
	// in is the number of those pending, by namespace.
	in map[string]int
}

// NewRecorder makes a Recorder, to be started. The client reads and writes past
// the caches, and should have a rate limit of its own; the cache has the indexes of
// this package.
func NewRecorder(c client.Client, cache client.Client, recorder events.EventRecorder) *Recorder {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[refusedOwner](100*time.Millisecond, writeTimeout)
	return &Recorder{
		client:  c,
		cache:   cache,
		events:  recorder,
		queue:   workqueue.NewTypedRateLimitingQueue(limiter),
		pending: map[refusedOwner]*note{},
		in:      map[string]int{},
	}
}

// Record has it written soon that a machine of the owner was refused. Owners of
// kinds that nothing makes try again are left alone.
func (o *Recorder) Record(namespace string, ref metav1.OwnerReference, refusal *ipam.Refusal) {
	named := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	i := slices.IndexFunc(OwnerKinds(), func(kind schema.GroupKind) bool {
		return kind == named.GroupKind()
	})
	if i < 0 {
		return
	}
	key := types.NamespacedName{Namespace: namespace, Name: ref.Name}
	o.enqueue(refusedOwner{kind: OwnerKinds()[i], NamespacedName: key, uid: ref.UID}, note{ShortagesOf(refusal), refusal})
}

// NoteUnstored has it written soon that a machine of the owner with this UID was
// answered and then refused by something else, unless the owner says so already.
// An owner that is not there, or of another kind, is left alone.
func (o *Recorder) NoteUnstored(ctx context.Context, namespace string, uid types.UID) error {
	unstored := Obstacle{Reason: ipam.MachineNotStored}
	for _, kind := range OwnerKinds() {
		list := kube.MetadataListOf(capi.InScheme(o.cache.Scheme(), kind))
		err := o.cache.List(ctx, list, client.InNamespace(namespace), client.MatchingFields{byUID: string(uid)}, client.UnsafeDisableDeepCopy)
		if err != nil && !kube.IsAbsent(err) {
			return fmt.Errorf("looking for %s with UID %s: %w", kind.Kind, uid, err)
		}
		for i := range list.Items {
			if _, noted := shortagesOf(&list.Items[i])[unstored]; !noted {
				o.enqueue(refusedOwner{kind: kind, NamespacedName: client.ObjectKeyFromObject(&list.Items[i]), uid: uid}, note{Shortages: Shortages{unstored: 1}})
			}
		}
	}
	return nil
}

func (o *Recorder) enqueue(refused refusedOwner, n note) {
	if o.add(refused, n) {
		o.queue.Add(refused)
	}
}

func (o *Recorder) add(refused refusedOwner, n note) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pending[refused] == nil {
		if len(o.pending) >= maxPending || o.in[refused.Namespace] >= maxPendingOfOne {
			return false
		}
		o.pending[refused] = &note{Shortages: Shortages{}}
		o.in[refused.Namespace]++
	}
	for obstacle, needed := range n.Shortages {
		o.pending[refused].Add(obstacle, needed)
	}
	if n.last != nil {
		o.pending[refused].last = n.last
	}
	return true
}

// take returns what is to be written on an owner, nil if that was done with an
// earlier turn.
func (o *Recorder) take(refused refusedOwner) *note {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, ok := o.pending[refused]
	if !ok {
		return nil
	}
	delete(o.pending, refused)
	if o.in[refused.Namespace]--; o.in[refused.Namespace] == 0 {
		delete(o.in, refused.Namespace)
	}
	return n
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica
// refuses machines.
func (o *Recorder) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable. What is not written when the context ends
// is left to the next refusal.
func (o *Recorder) Start(ctx context.Context) error {
	defer context.AfterFunc(ctx, o.queue.ShutDown)()
	for {
		next, shutdown := o.queue.Get()
		if shutdown {
			return nil
		}
		o.writeOrRetry(ctx, next)
		o.queue.Done(next)
	}
}

func (o *Recorder) writeOrRetry(ctx context.Context, refused refusedOwner) {
	log := klog.FromContext(ctx).WithValues("owner", refused.NamespacedName, "kind", refused.kind.Kind)
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	n := o.take(refused)
	if n == nil {
		return
	}
	err := o.write(ctx, refused, *n)
	switch {
	case err == nil:
		o.queue.Forget(refused)
	case errors.Is(ctx.Err(), context.Canceled):
	case o.queue.NumRequeues(refused) < maxRetries && o.add(refused, *n):
		log.V(2).Info("Cannot write a refusal on an owner yet", "error", err)
		o.queue.AddRateLimited(refused)
	default:
		log.Error(err, "Cannot write a refusal on an owner, which is not told when it can try again")
		o.queue.Forget(refused)
	}
}

// write adds to the owner's annotation why it was refused, if it is not there.
// The owner is read from the API server: a cache may still hold an annotation
// that was just taken off. A refusal that is older than that is no news, since
// CAPI has been made to try again after it; so the patch needs no lock, which
// would only conflict with CAPI's own writes of the owner's status.
//
// The condition is written together with the annotation only, and before it: each write
// makes CAPI try, and a try that is refused in other words would be written again. It is
// there already, as a rule, if CAPI was made to try and is refused once more.
func (o *Recorder) write(ctx context.Context, refused refusedOwner, n note) error {
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(capi.InScheme(o.client.Scheme(), refused.kind))
	err := o.client.Get(ctx, refused.NamespacedName, obj)
	switch {
	case kube.IsAbsent(err):
		return nil
	case err != nil:
		return fmt.Errorf("reading %s %s: %w", refused.kind.Kind, refused.NamespacedName, err)
	case obj.GetUID() != refused.uid, obj.GetDeletionTimestamp() != nil:
		return nil
	}
	o.tellDeployment(obj, n.last)
	all := shortagesOf(obj)
	for obstacle, needed := range n.Shortages {
		all.Add(obstacle, needed)
	}
	if obj.GetAnnotations()[ipam.RefusedByAnnotation] == all.String() {
		return nil
	}
	if err := putCondition(ctx, o.client, obj, n.last); err != nil {
		return err
	}
	before := obj.DeepCopy()
	annotations := obj.GetAnnotations()
	delete(annotations, ipam.TriedAgainAnnotation)
	obj.SetAnnotations(annotations)
	kube.SetAnnotation(obj, ipam.RefusedByAnnotation, all.String())
	if err := o.client.Patch(ctx, obj, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("annotating %s %s: %w", refused.kind.Kind, refused.NamespacedName, err)
	}
	klog.FromContext(ctx).V(2).Info("Wrote a refusal on an owner", "owner", refused.NamespacedName, "kind", refused.kind.Kind, "refusedBy", all.String())
	return nil
}

// tellDeployment puts a refusal into an event on the MachineDeployment of a MachineSet.
func (o *Recorder) tellDeployment(set client.Object, refusal *ipam.Refusal) {
	owner, ok := capi.DeploymentOf(set)
	if !ok || refusal == nil {
		return
	}
	regarding := &corev1.ObjectReference{APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: set.GetNamespace(), Name: owner.Name, UID: owner.UID}
	o.events.Eventf(regarding, nil, corev1.EventTypeWarning, string(refusal.Reason), "Admit", "%s", refusal.Message)
}
