package late

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gomodules.xyz/jsonpatch/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachines,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspherevms,verbs=get;list;watch

const (
	// bindingTime is for how long a try waits for its turn and for the provider. What
	// takes longer wakes the machine when it is done, and keeps nobody else waiting.
	bindingTime = 3 * time.Second
	// conflictRetry is the time in which a watch usually brings what a write conflicted
	// with.
	conflictRetry = 50 * time.Millisecond
)

// Allocator is what is needed of IPAM.
type Allocator interface {
	// Claim binds an address for every ask, or fails with a Refusal or
	// allocator.ErrMachineGone.
	Claim(ctx context.Context, req allocator.Request) (*allocator.Attempt, error)
	// Held are the addresses that are protected for a machine.
	Held(ctx context.Context, machine ipam.Machine, uid types.UID) ([]ipam.Binding, error)
	Kept(ctx context.Context, cluster ipam.Machine, ip netip.Addr) (*ipam.Binding, error)
	// GiveUp deletes what tries have claimed and what the machine does not have, or fails
	// with allocator.ErrMachineGone, or with a Refusal if something of it is frozen.
	GiveUp(ctx context.Context, machine ipam.Machine, uid types.UID) error
}

// Demand is what machines ask for.
type Demand interface {
	// Asks lists what the eligible devices ask for, and warns of what is asked for in
	// vain. It fails with a Refusal if something is asked for that cannot be given.
	Asks(ctx context.Context, m *machine.Machine) (asks []ipam.Ask, warnings []string, err error)
	// IsPaused tells whether the machine's Cluster is paused.
	IsPaused(ctx context.Context, m *machine.Machine) (bool, error)
	// TakesDHCPAway tells whether there is a failure domain that does so.
	TakesDHCPAway(ctx context.Context) (bool, error)
}

// Reconciler gives addresses to one machine after the other.
type Reconciler struct {
	allocator Allocator
	demand    Demand
	client    client.Client
	live      client.Reader
	events    events.EventRecorder
	memory    *memory
	// now is the leader's own clock.
	now func() time.Time
}

// candidate is a machine as the API server has it.
type candidate struct {
	*machine.Machine
	object *capi.VSphereMachine
	raw    []byte
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	// One that does not exist is not due.
	cached := &capi.VSphereMachine{}
	if err := r.client.Get(ctx, req.NamespacedName, cached); err != nil && !kube.IsAbsent(err) {
		return reconcile.Result{}, fmt.Errorf("reading VSphereMachine %s: %w", req.NamespacedName, err)
	}
	due, err := r.isDue(ctx, cached)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !due && !mayHaveLeft(cached) {
		r.memory.end(req.NamespacedName)
		return reconcile.Result{}, nil
	}
	if r.memory.isAnswered(cached) {
		return reconcile.Result{}, nil
	}
	paused, err := r.demand.IsPaused(ctx, &machine.Machine{ObjectMeta: cached.ObjectMeta})
	if err != nil {
		return reconcile.Result{}, err
	}
	if paused {
		// The end of that is an event.
		r.memory.pause(req.NamespacedName)
		return reconcile.Result{}, nil
	}
	if !due {
		// One that does not wait for an address any more may have claimed some.
		r.memory.end(req.NamespacedName)
		return r.giveUp(ctx, cached)
	}
	r.memory.ask(cached.UID)
	m, err := r.read(ctx, req.NamespacedName)
	if err != nil || m == nil {
		return reconcile.Result{}, err
	}
	err = r.serve(ctx, m)
	if errors.Is(err, errNothing) || errors.Is(err, errTooLate) {
		r.memory.end(req.NamespacedName)
		result, err := r.giveUp(ctx, cached)
		if err == nil && result.IsZero() {
			r.memory.answer(cached)
		}
		return result, err
	}
	return r.result(ctx, m, err)
}

// giveUp deletes what was claimed for a machine and what it does not have. One that has
// gone meanwhile is not ours any more. What is frozen is looked at again.
func (r *Reconciler) giveUp(ctx context.Context, m *capi.VSphereMachine) (reconcile.Result, error) {
	identity := (&machine.Machine{ObjectMeta: m.ObjectMeta}).Identity()
	err := r.allocator.GiveUp(ctx, identity, m.UID)
	switch {
	case errors.Is(err, allocator.ErrMachineGone):
		return reconcile.Result{}, nil
	case allocator.IsFrozen(err):
		return reconcile.Result{RequeueAfter: allocator.FrozenCheck}, nil
	}
	return reconcile.Result{}, err
}

// isDue is isDue, also of a machine whose failure domain may take DHCP away.
func (r *Reconciler) isDue(ctx context.Context, m *capi.VSphereMachine) (bool, error) {
	if isDue(m) || !mayBeDue(m) {
		return isDue(m), nil
	}
	return r.demand.TakesDHCPAway(ctx)
}

// read reads a machine from the API server, nil if it is not due by its word. That
// will show in the cache, too.
func (r *Reconciler) read(ctx context.Context, key types.NamespacedName) (*candidate, error) {
	raw, err := readDocument(ctx, r.live, capi.InScheme(r.client.Scheme(), capi.VSphereMachineKind), key)
	if err != nil || raw == nil {
		return nil, err
	}
	object := &capi.VSphereMachine{}
	if err := json.Unmarshal(raw, object); err != nil {
		return nil, fmt.Errorf("reading VSphereMachine %s: %w", key, err)
	}
	if !isReady(object) {
		return nil, nil
	}
	m, err := machine.Decode(raw)
	if err != nil {
		return nil, err
	}
	return &candidate{Machine: m, object: object, raw: raw}, nil
}

// readDocument reads an object from the API server as that has it, nil if it does not
// exist.
func readDocument(ctx context.Context, live client.Reader, kind schema.GroupVersionKind, key types.NamespacedName) ([]byte, error) {
	document := &unstructured.Unstructured{}
	document.SetGroupVersionKind(kind)
	if err := live.Get(ctx, key, document); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	raw, err := document.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("writing %s %s: %w", kind.Kind, key, err)
	}
	return raw, nil
}

// serve asks what admission asks, in the same order, and then claims and writes.
func (r *Reconciler) serve(ctx context.Context, m *candidate) error {
	asks, unserved, err := r.demand.Asks(ctx, m.Machine)
	if err != nil {
		return err
	}
	if asks, _, err = m.NewAsks(asks); err != nil {
		return err
	}
	if len(asks) == 0 {
		return errNothing
	}
	if err := r.checkUntouched(ctx, m, asks); err != nil {
		return err
	}
	attempt, err := r.claim(ctx, m, asks)
	if err != nil {
		return err
	}
	if err := r.inject(ctx, m, attempt.Bindings); err != nil {
		return err
	}
	r.tellServed(ctx, m, slices.Concat(unserved, machine.DefaultRoutes(m.Machine, attempt.Bindings), attempt.Warnings))
	return nil
}

// These are no failures: there is nothing to be done until the machine changes.
var (
	errNothing = errors.New("the machine asks for nothing")
	errTooLate = errors.New("the machine has a VM")
)

// claim binds an address for every ask.
func (r *Reconciler) claim(ctx context.Context, m *candidate, asks []ipam.Ask) (*allocator.Attempt, error) {
	return claimInTime(ctx, r.allocator, allocator.Request{
		Stamp:   ipam.Stamp{Time: r.now(), Request: uuid.NewUUID()},
		Machine: m.Identity(), UID: m.UID, Asks: asks,
	})
}

func claimInTime(ctx context.Context, engine Allocator, request allocator.Request) (*allocator.Attempt, error) {
	bounded, cancel := context.WithTimeout(ctx, bindingTime)
	defer cancel()
	attempt, err := engine.Claim(bounded, request)
	if err == nil {
		return attempt, nil
	}
	if _, refused := ipam.AsRefusal(err); !refused && bounded.Err() != nil {
		err = ipam.Refuse(ipam.NotBoundInTime, "no address could be bound in time: "+
			"the API server or the IPAM controller is slow or down; see its log")
	}
	return nil, err
}

// checkUntouched fails if addresses would come too late, or beside others that the
// machine holds.
func (r *Reconciler) checkUntouched(ctx context.Context, m *candidate, asks []ipam.Ask) error {
	held, err := r.allocator.Held(ctx, m.Identity(), m.UID)
	if err != nil {
		return err
	}
	if isPartlyBound(m.Machine, held) {
		return errNothing
	}
	begun, err := r.hasBegunVM(ctx, m)
	if err != nil || !begun {
		return err
	}
	r.tellTooLate(m, asks[0].AskedBy)
	return errTooLate
}

// hasBegunVM tells whether a machine has a VM, or one is being made. The cache finds it
// whatever its name; that which has the machine's name, as a rule, is read live.
func (r *Reconciler) hasBegunVM(ctx context.Context, m *candidate) (bool, error) {
	vms, err := kube.List(ctx, r.client, &capi.VSphereVM{}, client.InNamespace(m.Namespace), client.MatchingFields{byOwner: string(m.UID)}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return false, fmt.Errorf("listing VSphereVMs: %w", err)
	}
	vm := &capi.VSphereVM{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(m.object), vm); err == nil {
		vms = append(vms, vm)
	} else if !kube.IsAbsent(err) {
		return false, fmt.Errorf("reading VSphereVM %s: %w", klog.KObj(m.object), err)
	}
	return slices.ContainsFunc(vms, func(obj client.Object) bool {
		vm, ok := obj.(*capi.VSphereVM)
		return ok && capi.OwnerMachine(vm).UID == m.UID && vm.IsBegun()
	}), nil
}

// inject writes all addresses into the machine at once, if it is still as it was read:
// CAPV goes on as soon as each device has one address.
func (r *Reconciler) inject(ctx context.Context, m *candidate, bindings []ipam.Binding) error {
	patch, err := machine.PatchFor(m.raw, func(doc machine.Document) error {
		return machine.Inject(doc, bindings, ipam.Bindings{Machine: m.Name, Bindings: bindings})
	})
	if err != nil {
		return err
	}
	if err := writeOnce(ctx, r.client, m.object.DeepCopy(), m.ResourceVersion, patch); err != nil {
		return fmt.Errorf("writing addresses into VSphereMachine %s: %w", klog.KObj(m.object), err)
	}
	klog.FromContext(ctx).Info("Gave a stored machine its addresses", "bindings", len(bindings))
	return nil
}

// writeOnce writes a patch into an object if that has the version still. It fails with
// allocator.ErrMachineGone if the object does not exist.
func writeOnce(ctx context.Context, c client.Client, object client.Object, version string, patch []jsonpatch.Operation) error {
	// To set the version that it has makes every other version a conflict.
	patch = append(patch, jsonpatch.NewOperation("replace", "/metadata/resourceVersion", version))
	text, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("writing the patch: %w", err)
	}
	err = c.Patch(ctx, object, client.RawPatch(types.JSONPatchType, text))
	if apierrors.IsNotFound(err) {
		return allocator.ErrMachineGone
	}
	return err
}

// result is when a machine is looked at again.
func (r *Reconciler) result(ctx context.Context, m *candidate, err error) (reconcile.Result, error) {
	key := client.ObjectKeyFromObject(m.object)
	refusal, isRefused := ipam.AsRefusal(err)
	switch {
	case err == nil:
		machinesLate.WithLabelValues(r.causeOf(ctx, m)).Inc()
		r.memory.end(key)
		// It may have asked for more once, or for other pools.
		return r.giveUp(ctx, m.object)
	case errors.Is(err, allocator.ErrMachineGone):
		return reconcile.Result{}, nil
	case errors.Is(err, ipam.ErrUndecided):
		// Its Machine is gone, or another one of the name is there: it will go, too.
		return reconcile.Result{RequeueAfter: firstWait}, nil
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictRetry}, nil
	case isRefused:
		r.tellRefused(ctx, m, refusal)
		return reconcile.Result{RequeueAfter: r.memory.refuse(key, refusal.Shortages, r.now())}, nil
	}
	r.tellRefused(ctx, m, failure(err))
	return reconcile.Result{}, err
}

// failure is how users are told of an error that is no refusal.
func failure(err error) *ipam.Refusal {
	return &ipam.Refusal{Reason: ipam.AllocationFailed,
		Message: fmt.Sprintf("addresses could not be allocated (%s): see the log of capv-static-ip", cmp.Or(string(apierrors.ReasonForError(err)), "unknown error"))}
}

// causeOf is why a machine was stored without an address, as far as is known.
func (r *Reconciler) causeOf(ctx context.Context, m *candidate) string {
	switch {
	case r.memory.wasPaused(client.ObjectKeyFromObject(m.object)):
		return "paused"
	case m.GenerateName != "":
		return "generate_name"
	case r.waitedForItsDomain(ctx, m):
		return "failure_domain"
	}
	return "not_asked"
}

// waitedForItsDomain tells whether admission could not know what a machine is to get: its
// failure domain takes DHCP away, or would have been undecided without its Machine, which
// tells it. That of a MachineSet's machine is known from the start.
func (r *Reconciler) waitedForItsDomain(ctx context.Context, m *candidate) bool {
	if !isDue(m.object) {
		return true
	}
	if _, isOfSet := m.Labels[clusterv1.MachineSetNameLabel]; isOfSet {
		return false
	}
	before := *m.Machine
	before.OwnerReferences = slices.DeleteFunc(slices.Clone(m.OwnerReferences), func(owner metav1.OwnerReference) bool { return owner.Kind == "Machine" })
	_, _, err := r.demand.Asks(ctx, &before)
	return errors.Is(err, ipam.ErrUndecided)
}
