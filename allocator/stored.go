package allocator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
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
	machine := &capi.VSphereMachine{}
	err := a.live.Get(ctx, req.Machine.NamespacedName, machine)
	_, bound := machine.Annotations[ipam.BindingsAnnotation]
	switch {
	case kube.IsAbsent(err), err == nil && (machine.UID != req.UID || !machine.DeletionTimestamp.IsZero() || bound):
		return ErrMachineGone
	case err != nil:
		return fmt.Errorf("reading VSphereMachine %s: %w", req.Machine.NamespacedName, err)
	}
	return nil
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
// its provider has given it up, or the machine asks for another pool by now. At
// admission such a claim is taken back.
//
// That of an endpoint is useless only if it has failed: the address of one that is bound
// may be the endpoint of a Cluster that lives.
func (al *allocation) isUseless(claim ipam.Claim) bool {
	failed := claim.Failure != "" && claim.Address == ""
	if al.Machine.Kind == ipam.OfCluster {
		return failed && al.isStored() && al.Machine.Holder().Marks(claim) && claim.GetDeletionTimestamp().IsZero()
	}
	return al.made(claim) && (failed || !answersTo(claim, al.want))
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
		return a.giveUp(ctx, al.provider, claim, al.UID)
	}
	return a.deleteClaim(ctx, claim)
}

// giveUp deletes a claim of a stored machine. That has just been read: it holds nothing,
// so nothing uses the address that the claim may have.
func (a *Allocator) giveUp(ctx context.Context, provider ipam.Provider, claim ipam.Claim, machine types.UID) error {
	if err := a.unprotect(ctx, provider, claim.Object, machine); err != nil {
		return err
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

// GiveUp deletes the claims that earlier tries for a stored machine made, which does not
// ask for addresses any more. It returns ErrMachineGone if the machine is not as it was.
func (a *Allocator) GiveUp(ctx context.Context, machine ipam.Machine, uid types.UID) error {
	req := Request{Machine: machine, UID: uid}
	unused, err := a.unusedOf(ctx, req, &Attempt{})
	if err != nil || len(unused) == 0 {
		return err
	}
	if err := a.checkStoredMachine(ctx, req); err != nil {
		return err
	}
	return a.giveUpAll(ctx, req, unused)
}

// giveUpUnused deletes the claims that earlier tries for a stored machine made, and that
// the one that has served it does not use: the machine asked for more addresses then, or
// for a pool of the other claim API. Nobody else would: the machine owns them, and lives.
// Those of an endpoint are reaped.
func (a *Allocator) giveUpUnused(ctx context.Context, req Request, attempt *Attempt) error {
	if !req.isStored() || req.Machine.Kind == ipam.OfCluster {
		return nil
	}
	unused, err := a.unusedOf(ctx, req, attempt)
	if err != nil {
		return err
	}
	return a.giveUpAll(ctx, req, unused)
}

// unusedOf are the claims that tries for a stored machine made, and that an attempt does
// not use.
func (a *Allocator) unusedOf(ctx context.Context, req Request, attempt *Attempt) ([]ipam.Claim, error) {
	var unused []ipam.Claim
	for _, provider := range a.providers {
		objects, err := kube.List(ctx, a.client, ipam.EmptyClaim(provider), client.InNamespace(req.Machine.Namespace),
			client.MatchingLabels{ipam.MachineLabel: ipam.MachineLabelValue(req.Machine.Name)})
		if err != nil {
			return nil, fmt.Errorf("listing the claims of VSphereMachine %s: %w", req.Machine.NamespacedName, err)
		}
		for _, obj := range objects {
			isUsed := slices.ContainsFunc(attempt.allocations, func(al *allocation) bool {
				return al.provider.Name() == provider.Name() && al.claim == obj.GetName()
			})
			if !isUsed && req.made(obj) {
				unused = append(unused, provider.ReadClaim(obj))
			}
		}
	}
	return unused, nil
}

func (a *Allocator) giveUpAll(ctx context.Context, req Request, claims []ipam.Claim) error {
	for _, claim := range claims {
		if err := a.giveUp(ctx, a.providers.OfClaim(claim.Object), claim, req.UID); err != nil {
			return err
		}
	}
	return nil
}

// unprotectLeft unprotects the addresses of a stored machine whose claims are gone: others
// have deleted them while it waited. The machine has just been read to hold nothing, and a
// claim of the same name would wait for them for ever.
func (a *Allocator) unprotectLeft(ctx context.Context, req Request) error {
	if !req.isStored() || req.Machine.Kind == ipam.OfCluster {
		return nil
	}
	for _, provider := range a.providers {
		objects, err := kube.List(ctx, a.client, ipam.EmptyAddress(provider), client.InNamespace(req.Machine.Namespace))
		if err != nil {
			return fmt.Errorf("listing the addresses of VSphereMachine %s: %w", req.Machine.NamespacedName, err)
		}
		for _, obj := range objects {
			if obj.GetAnnotations()[ipam.MachineUIDAnnotation] != string(req.UID) || !ipam.IsProtected(obj) {
				continue
			}
			if err := a.unprotectIfLeft(ctx, provider, obj); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Allocator) unprotectIfLeft(ctx context.Context, provider ipam.Provider, address client.Object) error {
	claim := ipam.EmptyClaim(provider)
	key := types.NamespacedName{Namespace: address.GetNamespace(), Name: provider.ReadAddress(address).Claim}
	err := a.live.Get(ctx, key, claim)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("reading claim %s: %w", key, err)
	}
	if err == nil && ipam.Answers(address, claim.GetUID()) {
		return nil
	}
	before := address.DeepCopyObject().(client.Object)
	machine := ipam.MachineOf(address)
	ipam.Unprotect(address)
	if address.GetDeletionTimestamp().IsZero() {
		// Nobody frees it. It is found as a stray one, if no claim of the name gets it.
		kube.SetAnnotation(address, ipam.MachineNameAnnotation, machine)
	}
	if err := kube.PatchAsRead(ctx, a.client, address, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("unprotecting address %s: %w", klog.KObj(address), err)
	}
	klog.FromContext(ctx).Info("Unprotected an address whose claim is gone", "address", klog.KObj(address))
	return nil
}
