package allocator

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// ErrMachineGone says that a stored machine is not there any more, or is being
// deleted: nothing is claimed for it.
var ErrMachineGone = errors.New("the machine is gone")

// isStored tells whether the request is for a machine that is stored already.
func (r *Request) isStored() bool { return r.UID != "" }

// checkStoredMachine returns ErrMachineGone unless the API server has the very machine.
// It may go in the next moment: what is claimed for it then has an owner that does not
// exist, and is collected as garbage.
func (a *Allocator) checkStoredMachine(ctx context.Context, req Request) error {
	machine := &capi.VSphereMachine{}
	err := a.live.Get(ctx, req.Machine.NamespacedName, machine)
	switch {
	case kube.IsAbsent(err), err == nil && (machine.UID != req.UID || !machine.DeletionTimestamp.IsZero()):
		return ErrMachineGone
	case err != nil:
		return fmt.Errorf("reading VSphereMachine %s: %w", req.Machine.NamespacedName, err)
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

// disown undoes own on a claim that becomes another one's.
func (al *allocation) disown(claim client.Object) {
	if !al.owns(claim) {
		return
	}
	claim.SetOwnerReferences(capi.Others(claim.GetOwnerReferences(), al.UID))
	controllerutil.RemoveFinalizer(claim, ipam.InUseFinalizer)
}

// isUseless tells whether a claim of ours for the stored machine can bring it nothing:
// its provider has given it up, or the machine asks for another pool by now. At
// admission such a claim is taken back.
func (al *allocation) isUseless(claim ipam.Claim) bool {
	failed := claim.Failure != "" && claim.Address == ""
	return al.owns(claim) && ipam.IsMarked(claim, al.Machine.Name) && claim.GetDeletionTimestamp().IsZero() &&
		(failed || !answersTo(claim, al.want))
}

// discard deletes such a claim, to be made again when it is gone, and returns the
// refusal for it. The machine has just been read: it holds nothing, so nothing uses the
// address that the claim may have.
func (a *Allocator) discard(ctx context.Context, al *allocation, claim ipam.Claim) error {
	if err := a.unprotect(ctx, al.provider, claim.Object, al.UID); err != nil {
		return err
	}
	before := claim.DeepCopyObject().(client.Object)
	if controllerutil.RemoveFinalizer(claim, ipam.InUseFinalizer) {
		err := kube.PatchAsRead(ctx, a.client, claim.Object, before)
		if apierrors.IsNotFound(err) {
			return terminating(al)
		}
		if err != nil {
			return fmt.Errorf("deleting claim %s: %w", klog.KObj(claim), err)
		}
	}
	if err := kube.DeleteAsRead(ctx, a.client, claim.Object); err != nil {
		return fmt.Errorf("deleting claim %s: %w", klog.KObj(claim), err)
	}
	klog.FromContext(ctx).Info("Deleted a claim that came to nothing", "claim", klog.KObj(claim), "failure", claim.Failure)
	switch {
	case claim.Exhausted:
		return exhausted(al.pool, 0, 1)
	case claim.Failure != "":
		return claimRefused(al, claim)
	}
	return terminating(al)
}
