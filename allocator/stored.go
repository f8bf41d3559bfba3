package allocator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// ErrMachineGone says that a stored machine is not there any more, is being deleted, or
// has got its addresses, from another leader: nothing is claimed for it.
var ErrMachineGone = errors.New("the machine is gone, or has its addresses")

// isStored tells whether the request is for a machine that is stored already.
func (r *Request) isStored() bool { return r.UID != "" }

// checkStoredMachine returns ErrMachineGone unless the API server has the very machine,
// without addresses of ours. It may go in the next moment: what is claimed for it then has
// an owner that does not exist, and is collected as garbage.
func (a *Allocator) checkStoredMachine(ctx context.Context, req Request) error {
	if req.Machine.Kind == ipam.OfCluster {
		return a.checkStoredCluster(ctx, req)
	}
	machine, err := a.storedMachine(ctx, req)
	if err == nil && isBound(machine) {
		return ErrMachineGone
	}
	return err
}

// storedMachine is the very machine of a request as the API server has it. It returns
// ErrMachineGone if there is none, or if that is being deleted.
func (a *Allocator) storedMachine(ctx context.Context, req Request) (*capi.VSphereMachine, error) {
	machine := &capi.VSphereMachine{}
	err := a.live.Get(ctx, req.Machine.NamespacedName, machine)
	switch {
	case kube.IsAbsent(err), err == nil && (machine.UID != req.UID || !machine.DeletionTimestamp.IsZero()):
		return nil, ErrMachineGone
	case err != nil:
		return nil, fmt.Errorf("reading VSphereMachine %s: %w", req.Machine.NamespacedName, err)
	}
	return machine, nil
}

// isBound tells whether a machine says that it has addresses of ours.
func isBound(machine *capi.VSphereMachine) bool {
	_, bound := machine.Annotations[ipam.BindingsAnnotation]
	return bound
}

// checkStoredCluster returns ErrMachineGone unless the API server has the very
// VSphereCluster, without an endpoint. What is claimed for it is a request's, and is reaped
// if it goes in the next moment.
func (a *Allocator) checkStoredCluster(ctx context.Context, req Request) error {
	cluster := &capi.VSphereCluster{}
	err := a.live.Get(ctx, req.Machine.NamespacedName, cluster)
	switch {
	case kube.IsAbsent(err), err == nil && (cluster.UID != req.UID || !cluster.DeletionTimestamp.IsZero() || cluster.Spec.ControlPlaneEndpoint.Host != ""):
		return ErrMachineGone
	case err != nil:
		return fmt.Errorf("reading VSphereCluster %s: %w", req.Machine.NamespacedName, err)
	}
	return nil
}

// noteOwn has an attempt for a stored machine know of claims that earlier tries have made under
// later names: the first was set aside then, and may have been given back since. Such a claim may
// have the last address of its pool. The first name is tried anyway.
func (a *Allocator) noteOwn(ctx context.Context, req Request, attempt *Attempt) error {
	if !req.isStored() || req.Machine.Kind != ipam.OfMachine {
		return nil
	}
	made, err := a.madeFor(ctx, req)
	if err != nil {
		return err
	}
	slices.SortFunc(made, func(a, b ipam.Claim) int {
		return cmp.Or(min(1, len(b.Address))-min(1, len(a.Address)), strings.Compare(a.GetName(), b.GetName()))
	})
	for _, claim := range made {
		if !ipam.IsGivenUp(claim) {
			attempt.noteKept(claim)
		}
	}
	for _, al := range attempt.allocations {
		if len(al.kept) > 0 && al.kept[0].GetName() == al.claim {
			al.kept = nil
		}
	}
	return nil
}

// own makes a claim the stored machine's: it is no request's that may fail, so that
// nobody reaps it or takes it back while the machine exists.
func (a *Allocator) own(claim client.Object, al *allocation) {
	annotations := claim.GetAnnotations()
	delete(annotations, ipam.RequestedByAnnotation)
	claim.SetAnnotations(annotations)
	capi.Own(claim, a.client.Scheme(), al.Machine.Name, al.UID)
	if al.provider.Traits().KeepsFinalizedClaims {
		controllerutil.AddFinalizer(claim, ipam.InUseFinalizer)
	}
}

// owns tells whether a claim is the stored machine's own.
func (al *allocation) owns(claim client.Object) bool {
	return al.isStored() && capi.OwnerMachine(claim).UID == al.UID
}

// stampedFor is for how long a claim needs no new stamp that a stored VSphereCluster tries
// again and again. It is short of the time after which a claim is reaped; and a stamp is a
// change of the claim, which makes the next try come at once.
const stampedFor = 30 * time.Second

// hasJustUsed tells whether an earlier try for the stored VSphereCluster has stamped a claim
// a moment ago.
func (al *allocation) hasJustUsed(claim client.Object) bool {
	stamp, err := ipam.StampOf(claim)
	return err == nil && al.isStored() && al.Machine.Kind == ipam.OfCluster && al.Machine.Holder().Marks(claim) &&
		time.Since(stamp.Time) < stampedFor
}

// disown undoes own on a claim that becomes another one's.
func (al *allocation) disown(claim client.Object) {
	if !al.owns(claim) {
		return
	}
	claim.SetOwnerReferences(capi.Others(claim.GetOwnerReferences(), al.UID))
	controllerutil.RemoveFinalizer(claim, ipam.InUseFinalizer)
}

// isUseless tells whether a claim of ours for the stored machine can bring it nothing:
// its provider has given it up, or a leader has, or the machine asks for another pool by
// now. At admission such a claim is taken back.
//
// That of an endpoint is useless only if it has failed: the address of one that is bound
// may be the endpoint of a Cluster that lives.
func (al *allocation) isUseless(claim ipam.Claim) bool {
	failed := claim.Failure != "" && claim.Address == ""
	if al.Machine.Kind == ipam.OfCluster {
		return failed && al.isStored() && al.Machine.Holder().Marks(claim) && claim.GetDeletionTimestamp().IsZero()
	}
	return al.made(claim) && (failed || ipam.IsGivenUp(claim) || !answersTo(claim, al.want))
}

// made tells whether an earlier try for the stored machine has made a claim. What somebody
// has offered to it is not ours to delete.
func (r *Request) made(claim client.Object) bool {
	return r.isStored() && capi.OwnerMachine(claim).UID == r.UID && ipam.IsMarked(claim, r.Machine.Name) &&
		!ipam.IsOffered(claim) && claim.GetDeletionTimestamp().IsZero()
}

// discard deletes such a claim, to be made again when it is gone, and returns the
// refusal for it, which is the same that it was refused with before.
func (a *Allocator) discard(ctx context.Context, al *allocation, claim ipam.Claim) error {
	if err := a.deleteUseless(ctx, al, claim); err != nil {
		return err
	}
	switch {
	case claim.Failure != "" && al.want.IP.IsValid():
		return addressTaken(al.poolName(), al.want)
	case claim.Exhausted:
		return exhausted(al.pool, 0, 1)
	case claim.Failure != "":
		return claimRefused(al, claim)
	}
	return terminating(al)
}

func (a *Allocator) deleteUseless(ctx context.Context, al *allocation, claim ipam.Claim) error {
	if al.Machine.Kind == ipam.OfMachine {
		return a.giveUp(ctx, *al.Request, al.provider, claim)
	}
	return a.deleteClaim(ctx, claim)
}

func (a *Allocator) deleteClaim(ctx context.Context, claim ipam.Claim) error {
	before := claim.DeepCopyObject().(client.Object)
	if controllerutil.RemoveFinalizer(claim, ipam.InUseFinalizer) {
		err := kube.PatchAsRead(ctx, a.client, claim.Object, before)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("deleting claim %s: %w", klog.KObj(claim), err)
		}
	}
	if err := kube.DeleteAsRead(ctx, a.client, claim.Object); err != nil {
		return fmt.Errorf("deleting claim %s: %w", klog.KObj(claim), err)
	}
	klog.FromContext(ctx).Info("Deleted a claim that came to nothing", "claim", klog.KObj(claim), "failure", claim.Failure)
	return nil
}
