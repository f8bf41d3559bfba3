package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachines,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspherevms,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Refusals are written on the owners of machines, for the controller that makes
// them try again.
type Refusals interface {
	// NoteUnstored has it written that a machine of the owner with this UID was
	// answered here and then refused by something else.
	NoteUnstored(ctx context.Context, namespace string, owner types.UID) error
}

// Reconciler takes each machine's bindings one step further. It is keyed by the
// machine's name, because claims and addresses outlive the machine.
type Reconciler struct {
	providers ipam.Providers
	client    client.Client
	live      client.Reader
	events    events.EventRecorder
	refusals  Refusals
	grace     time.Duration
	// reuseAfter is for how long addresses cool down whose pools say nothing of that.
	reuseAfter time.Duration
	// pools reads pools from the cache.
	pools client.Reader
	// now is the leader's own clock.
	now func() time.Time

	sightings  memory[types.UID, sighting]
	departures memory[types.NamespacedName, departure]
	// domains are the machines whose failure domain has been looked at.
	domains memory[types.UID, bool]
	// failures is since when the bindings of a machine cannot be given back.
	failures memory[types.NamespacedName, time.Time]
	// cooling counts what cools down now.
	cooling allocator.Census
	// vms are the reads of VSphereVMs that are under way.
	vms sharedReads
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	s, err := r.observe(ctx, req.NamespacedName)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("observing VSphereMachine %s: %w", req.NamespacedName, err)
	}
	if err := r.restore(ctx, s); err != nil {
		return result(ctx, fmt.Errorf("restoring the marks of VSphereMachine %s: %w", req.NamespacedName, err))
	}
	requeue, err := r.performAll(ctx, s)
	switch {
	case err == nil:
		r.failures.forget(req.NamespacedName)
	case !r.isStuck(ctx, s, err):
		return result(ctx, err)
	default:
		requeue = providerRetry
	}
	if err := r.removeMachineFinalizer(ctx, s); err != nil {
		return result(ctx, fmt.Errorf("removing our finalizer from VSphereMachine %s: %w", req.NamespacedName, err))
	}
	if !s.exists && len(s.holdings) == 0 {
		r.departures.forget(req.NamespacedName)
	}
	return reconcile.Result{RequeueAfter: requeue}, nil
}

// performAll takes each binding its next step, and returns after what time there
// is another one to take.
func (r *Reconciler) performAll(ctx context.Context, s *state) (time.Duration, error) {
	var requeue time.Duration
	var errs []error
	decisions := r.decideAll(ctx, s)
	r.countCooling(s)
	for _, d := range decisions {
		r.checkDevice(ctx, s, d.holding)
		r.checkDomain(ctx, s, d.holding)
		if d.err != nil {
			errs = append(errs, &stepError{d.step, d.err})
			continue
		}
		if d.wait > 0 && (requeue == 0 || d.wait < requeue) {
			requeue = d.wait
		}
		if err := r.perform(ctx, s, d.holding, d.step); err != nil {
			errs = append(errs, &stepError{d.step, err})
		}
	}
	return requeue, errors.Join(errs...)
}

// result makes of a conflict a quiet retry: the state read was not the newest.
// Nothing can be made in a namespace that is being deleted, and nothing need be.
func result(ctx context.Context, err error) (reconcile.Result, error) {
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return reconcile.Result{}, nil
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictRetry}, nil
	case isUnserved(err):
		klog.FromContext(ctx).Error(err, "Waiting for an IPAM provider")
		return reconcile.Result{RequeueAfter: providerRetry}, nil
	}
	return reconcile.Result{}, err
}

// conflictRetry is the time in which a watch usually brings what an update
// conflicted with.
const conflictRetry = 50 * time.Millisecond

func (r *Reconciler) perform(ctx context.Context, s *state, h *holding, next step) error {
	switch next {
	case adopt:
		return r.adopt(ctx, s, h)
	case protect:
		return r.protect(ctx, s, h)
	case recreate:
		return r.recreate(ctx, s, h)
	case deleteFailed:
		return r.deleteFailed(ctx, s, h)
	case verify:
		return r.verify(ctx, s, h)
	case report:
		r.report(ctx, s, h)
	case awaitMachine:
		r.tellAwaited(s, h)
	case note:
		return r.noteUnstored(ctx, s, h)
	case markMoved:
		return r.markMoved(ctx, h)
	case cool:
		return r.cool(ctx, s, h)
	case release:
		return r.release(ctx, s, h)
	case removeClaimFinalizer:
		return r.removeClaimFinalizer(ctx, h.claim.Object)
	case unprotect:
		return r.releaseAddress(ctx, s, h)
	case reap:
		return r.reap(ctx, s, h)
	case handBack:
		return r.handBack(ctx, h)
	case deleteStray:
		return r.deleteStray(ctx, h)
	case dropFinalizers:
		return ipam.DropFinalizers(ctx, r.client, r.providers.For(h.claim.Pool), h.claim.Object)
	case claimTaken, giveBack:
		return r.performTaken(ctx, s, h, next)
	case idle:
	}
	return nil
}

// performTaken is perform for an address that was taken.
func (r *Reconciler) performTaken(ctx context.Context, s *state, h *holding, next step) error {
	if next == giveBack {
		return r.giveBack(ctx, s, h)
	}
	return r.claimTaken(ctx, s, h)
}

func (r *Reconciler) event(s *state, kind, reason, format string, args ...any) {
	if s.exists {
		r.events.Eventf(s.object, nil, kind, reason, "Reconcile", format, args...)
	}
}

// keyIn is the key of a name in the namespace of an object.
func keyIn(obj client.Object, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: name}
}
