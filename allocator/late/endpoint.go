package late

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vsphereclusters,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=get;list;watch

// EndpointDemand is what VSphereClusters ask for.
type EndpointDemand interface {
	// Endpoint is what is asked for the endpoint, nil if nothing, and the Cluster of
	// the VSphereCluster, nil if there is none. It fails with a Refusal if something
	// is asked for that cannot be given.
	Endpoint(ctx context.Context, c *machine.VSphereCluster) (*ipam.Ask, *capi.Cluster, error)
}

// endpoints gives endpoints to VSphereClusters that are stored without. CAPV says of such
// a one that it is ready, and Cluster API waits for the endpoint with all else.
type endpoints struct {
	allocator Allocator
	demand    EndpointDemand
	client    client.Client
	live      client.Reader
	events    events.EventRecorder
	memory    *memory
	// now is the leader's own clock.
	now func() time.Time
}

// asking is a VSphereCluster as the API server has it, and its Cluster.
type asking struct {
	*machine.VSphereCluster
	object  *capi.VSphereCluster
	cluster *capi.Cluster
	raw     []byte
}

// Reconcile implements reconcile.Reconciler.
func (r *endpoints) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	// One that does not exist is not due.
	cached := &capi.VSphereCluster{}
	if err := r.client.Get(ctx, req.NamespacedName, cached); err != nil && !kube.IsAbsent(err) {
		return reconcile.Result{}, fmt.Errorf("reading VSphereCluster %s: %w", req.NamespacedName, err)
	}
	if due, err := r.isDue(ctx, cached); err != nil || !due {
		r.memory.end(req.NamespacedName)
		return reconcile.Result{}, err
	}
	if r.memory.isAnswered(cached) {
		return reconcile.Result{}, nil
	}
	r.memory.ask(cached.UID)
	c, err := r.read(ctx, req.NamespacedName)
	if err != nil || c == nil {
		return reconcile.Result{}, err
	}
	err = r.serve(ctx, c)
	if errors.Is(err, errNothing) {
		r.memory.end(req.NamespacedName)
		r.memory.answer(cached)
		return reconcile.Result{}, nil
	}
	return r.result(ctx, c, err)
}

// waitsForEndpoint tells whether a VSphereCluster asks for an endpoint and has none.
func waitsForEndpoint(c *capi.VSphereCluster) bool {
	return c.Spec.ControlPlaneEndpoint.Host == "" && machine.AsksForEndpoint(c) &&
		c.DeletionTimestamp.IsZero() && !annotations.HasPaused(c) && !capi.IsMoving(c)
}

// isDue tells whether a VSphereCluster may be given an endpoint now, by the word of the
// cache. Unlike at admission its Cluster must exist: before it does, nobody waits, and
// nobody knows whether it is paused or has an endpoint already. That it comes to exist,
// and is resumed, are events.
func (r *endpoints) isDue(ctx context.Context, c *capi.VSphereCluster) (bool, error) {
	if !waitsForEndpoint(c) {
		return false, nil
	}
	clusters, err := kube.List(ctx, r.client, &capi.Cluster{}, client.InNamespace(c.Namespace), client.UnsafeDisableDeepCopy)
	if err != nil {
		return false, fmt.Errorf("looking for the Cluster of VSphereCluster %s: %w", klog.KObj(c), err)
	}
	for _, obj := range clusters {
		if cluster, ok := obj.(*capi.Cluster); ok && isClusterOf(cluster, c) {
			return r.needsEndpoint(ctx, c, cluster)
		}
	}
	return false, nil
}

// isClusterOf tells whether a Cluster is that of a VSphereCluster: by its label or, if it
// has none, by the Cluster's own word.
func isClusterOf(cluster *capi.Cluster, c client.Object) bool {
	if name := c.GetLabels()[clusterv1.ClusterNameLabel]; name != "" {
		return name == cluster.Name
	}
	return cluster.IsOn(c.GetName())
}

// needsEndpoint tells whether a VSphereCluster is not to be left alone for the sake of its
// Cluster.
func (r *endpoints) needsEndpoint(ctx context.Context, c *capi.VSphereCluster, cluster *capi.Cluster) (bool, error) {
	identity := (&machine.VSphereCluster{ObjectMeta: c.ObjectMeta}).Identity(cluster)
	held, err := r.allocator.Held(ctx, identity, "")
	if err != nil {
		return false, err
	}
	_, leave := machine.EndpointFor(cluster, held)
	return leave == "", nil
}

// read reads a VSphereCluster from the API server, nil if it does not wait by its word.
// That will show in the cache, too.
func (r *endpoints) read(ctx context.Context, key types.NamespacedName) (*asking, error) {
	raw, err := readDocument(ctx, r.live, capi.InScheme(r.client.Scheme(), capi.VSphereClusterKind), key)
	if err != nil || raw == nil {
		return nil, err
	}
	object := &capi.VSphereCluster{}
	if err := json.Unmarshal(raw, object); err != nil {
		return nil, fmt.Errorf("reading VSphereCluster %s: %w", key, err)
	}
	if !waitsForEndpoint(object) {
		return nil, nil
	}
	c, err := machine.DecodeVSphereCluster(raw)
	if err != nil {
		return nil, err
	}
	return &asking{VSphereCluster: c, object: object, raw: raw}, nil
}

// serve asks what admission asks, in the same order, and then claims and writes.
func (r *endpoints) serve(ctx context.Context, c *asking) error {
	ask, cluster, err := r.demand.Endpoint(ctx, c.VSphereCluster)
	c.cluster = cluster
	if err != nil {
		return err
	}
	if ask == nil {
		return errNothing
	}
	if cluster == nil {
		return errBehind
	}
	identity := c.Identity(cluster)
	held, err := r.allocator.Held(ctx, identity, "")
	if err != nil {
		return err
	}
	only, leave := machine.EndpointFor(cluster, held)
	if leave != "" {
		return errBehind
	}
	kept, err := r.allocator.Kept(ctx, identity, only)
	if err != nil {
		return err
	}
	if kept != nil {
		return r.inject(ctx, c, *kept)
	}
	attempt, err := claimInTime(ctx, r.allocator, allocator.Request{
		Stamp:   ipam.Stamp{Time: r.now(), Request: uuid.NewUUID()},
		Machine: identity, UID: c.UID, Asks: []ipam.Ask{*ask},
	})
	if err != nil {
		return err
	}
	b := attempt.Bindings[0]
	if err := machine.CheckEndpoint(b, only, cluster.Name); err != nil {
		r.tell(ctx, c, err)
		// The claim is reaped, if it is not used again.
		return errNothing
	}
	return r.inject(ctx, c, b)
}

// errBehind says that the cache was behind with the Cluster. What it did not have is an
// event.
var errBehind = errors.New("the cache was behind")

// inject writes host and port into the VSphereCluster at once, if it is still as it was
// read: Cluster API copies them to the Cluster, where they stay for ever.
func (r *endpoints) inject(ctx context.Context, c *asking, b ipam.Binding) error {
	patch, err := machine.PatchFor(c.raw, func(doc machine.Document) error {
		return machine.InjectEndpoint(doc, c.Name, b)
	})
	if err != nil {
		return err
	}
	if err := writeOnce(ctx, r.client, c.object.DeepCopy(), c.ResourceVersion, patch); err != nil {
		return fmt.Errorf("writing the endpoint into VSphereCluster %s: %w", klog.KObj(c.object), err)
	}
	klog.FromContext(ctx).Info("Gave a stored VSphereCluster its endpoint", "address", b.Address.Addr())
	return nil
}

// result is when a VSphereCluster is looked at again.
func (r *endpoints) result(ctx context.Context, c *asking, err error) (reconcile.Result, error) {
	key := client.ObjectKeyFromObject(c.object)
	refusal, isRefused := ipam.AsRefusal(err)
	switch {
	case err == nil:
		endpointsLate.Inc()
		r.memory.end(key)
		return reconcile.Result{}, nil
	case errors.Is(err, allocator.ErrMachineGone), errors.Is(err, errBehind):
		return reconcile.Result{}, nil
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictRetry}, nil
	case isRefused:
		r.tell(ctx, c, refusal)
		return reconcile.Result{RequeueAfter: r.memory.refuse(key, refusal.Shortages, r.now())}, nil
	}
	r.tell(ctx, c, failure(err))
	return reconcile.Result{}, err
}

// tell puts a refusal where users look: into events on the VSphereCluster and its Cluster.
func (r *endpoints) tell(ctx context.Context, c *asking, err error) {
	refusal, ok := ipam.AsRefusal(err)
	if !ok {
		return
	}
	klog.FromContext(ctx).Info("Cannot give a stored VSphereCluster its endpoint yet", "reason", refusal.Reason, "message", refusal.Message)
	regarding := []client.Object{c.object}
	if c.cluster != nil {
		regarding = append(regarding, c.cluster)
	}
	for _, object := range regarding {
		r.events.Eventf(object, nil, corev1.EventTypeWarning, string(refusal.Reason), "Inject", "%s", refusal.Message)
	}
}
