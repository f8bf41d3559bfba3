package allocator

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// ensureClaim makes the claim, or takes the one that exists if that is safe, and
// stamps it with the request. Names of claims that were set aside are passed over.
func (a *Allocator) ensureClaim(ctx context.Context, al *allocation) (ipam.Claim, error) {
	// One that was kept for the owner comes first: it is bound, or about to be.
	if al.used {
		claim, err := a.reuseOrJudgeAgain(ctx, al)
		if !errors.Is(err, errPassOver) {
			return claim, err
		}
	}
	for try := 1; try <= maxClaimNames; try++ {
		al.use(al.Machine.Holder().ClaimName(al.want.Slot(), try))
		if a.isKnownPassedOver(ctx, al) {
			continue
		}
		made, err := a.makeClaim(ctx, al)
		if err != nil {
			return ipam.Claim{}, err
		}
		if made != nil {
			return al.provider.ReadClaim(made), nil
		}
		// What exists may be a living machine's, to which the API server is about
		// to answer with a conflict.
		if err := a.checkMachineInAPI(ctx, *al.Request); err != nil {
			return ipam.Claim{}, err
		}
		claim, err := a.reuseOrJudgeAgain(ctx, al)
		if !errors.Is(err, errPassOver) {
			return claim, err
		}
	}
	return ipam.Claim{}, triedTooOften(al)
}

// isKnownPassedOver tells whether the cache has a claim of that name which is to be
// passed over. There may be many, each of which would cost the request three calls.
func (a *Allocator) isKnownPassedOver(ctx context.Context, al *allocation) bool {
	obj := ipam.EmptyClaim(al.provider)
	err := a.client.Get(ctx, al.claimKey(), obj)
	return err == nil && isPassedOver(obj, al)
}

func triedTooOften(al *allocation) error {
	return ipam.Refuse(ipam.AddressInUse, "%s answered with an address that cannot be given, as often as one request may try: see the claims with label %s",
		al.poolName(), ipam.SetAsideLabel)
}

// makeClaim makes the claim. It returns nil if there is one of that name.
func (a *Allocator) makeClaim(ctx context.Context, al *allocation) (client.Object, error) {
	obj := al.provider.NewClaim(al.claimSpec())
	a.sign(obj, al, al.Stamp)
	err := a.client.Create(ctx, obj)
	switch {
	case err == nil:
		claimsMade.Inc()
		klog.FromContext(ctx).Info("Claimed an address", "claim", klog.KObj(obj), "pool", al.want.Pool.Name)
		return obj, nil
	case apierrors.IsAlreadyExists(err):
		return nil, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, namespaceGone(al)
	}
	return nil, notWritten(ctx, al, obj, err)
}

func namespaceGone(al *allocation) error {
	return ipam.Refuse(ipam.NamespaceGone, "namespace %q is being deleted: nothing can be claimed in it; use another namespace", al.Machine.Namespace)
}

// sign writes on a claim whose it is, and which request uses it for what.
func (a *Allocator) sign(claim client.Object, al *allocation, stamp ipam.Stamp) {
	ipam.Mark(claim, al.Machine)
	ipam.Use(claim, stamp)
	if al.Machine.Kind == ipam.OfMachine {
		kube.SetAnnotation(claim, ipam.DeviceAnnotation, al.want.Slot().String())
	}
	if al.isStored() && al.Machine.Kind == ipam.OfMachine {
		a.own(claim, al)
		return
	}
	kube.SetAnnotation(claim, ipam.RequestedByAnnotation, ipam.RequestedBy(al.Owner))
	ipam.NoteFailureDomains(claim, al.want.Ask)
}

// notWritten says why a claim could not be made or stamped. A webhook of the
// provider's guards its claims: an internal error is how the API server says that
// it cannot be called, and if it does not answer, neither does the API server.
func notWritten(ctx context.Context, al *allocation, claim client.Object, err error) error {
	pool := al.want.Pool
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return notBoundInTime(al)
	case !apierrors.IsInternalError(err):
		return fmt.Errorf("claiming an address from %s %s: %w", pool.Kind, pool.Name, err)
	}
	klog.FromContext(ctx).Error(err, "Cannot write a claim", "claim", klog.KObj(claim))
	return ipam.Refuse(ipam.PoolNotServed, "no claim can be made on %s %q in namespace %q: is the IPAM controller of %s running? Start it, or see its log",
		pool.Kind, pool.Name, claim.GetNamespace(), pool.APIGroup)
}

// errPassOver says that a claim is to be passed over, see isPassedOver.
var errPassOver = errors.New("the claim is not to be used")

// isPassedOver tells whether a claim with a name of the request's has gone another
// way: it only keeps its address from being handed out, or is the claim of another
// machine, which had lost the address or was quicker to take what was kept, or of a
// VSphereCluster. The one claim of an endpoint has just one name.
func isPassedOver(claim client.Object, al *allocation) bool {
	holder := ipam.HolderOf(claim)
	isAnothers := holder.Name != "" && holder != al.Machine.Holder() && holder.Marks(claim) && !ipam.IsKeptFor(claim, al.Owner)
	return ipam.IsSetAside(claim) || isAnothers && al.Machine.Kind == ipam.OfMachine
}

// reuseOrJudgeAgain is reuse, repeated while others change the claim.
func (a *Allocator) reuseOrJudgeAgain(ctx context.Context, al *allocation) (claim ipam.Claim, err error) {
	err = kube.RetryOnConflict(func() error {
		var err error
		claim, err = a.reuse(ctx, al)
		return err
	})
	return claim, err
}

// reuse stamps a claim that exists already: from an earlier try of the same
// create, kept from one of the same owner that ran out of time, or made by others
// for this machine. The stamp is written against the resourceVersion just judged,
// so a conflict means: judge again.
func (a *Allocator) reuse(ctx context.Context, al *allocation) (ipam.Claim, error) {
	obj := ipam.EmptyClaim(al.provider)
	if err := a.live.Get(ctx, al.claimKey(), obj); err != nil {
		if apierrors.IsNotFound(err) {
			return ipam.Claim{}, terminating(al)
		}
		return ipam.Claim{}, fmt.Errorf("reading claim %s: %w", al.claimKey(), err)
	}
	claim := al.provider.ReadClaim(obj)
	if al.isUseless(claim) {
		return ipam.Claim{}, a.discard(ctx, al, claim)
	}
	if err := a.judgeReuse(claim, al); err != nil {
		return ipam.Claim{}, err
	}
	if al.owns(obj) && ipam.IsMarked(obj, al.Machine.Name) || al.hasJustUsed(obj) {
		// It is bound, or waits, from an earlier try for the same machine.
		return al.provider.ReadClaim(obj), nil
	}
	before := obj.DeepCopyObject().(client.Object)
	a.sign(obj, al, al.Stamp.Again())
	annotations := obj.GetAnnotations()
	delete(annotations, ipam.KeptAnnotation)
	// The machine may be another one than that which the claim was made for.
	fresh := al.provider.NewClaim(al.claimSpec())
	maps.Copy(annotations, fresh.GetAnnotations())
	obj.SetAnnotations(annotations)
	if err := ipam.NoteTakenOver(obj, before); err != nil {
		return ipam.Claim{}, err
	}
	if err := a.client.Update(ctx, obj); err != nil {
		return ipam.Claim{}, notWritten(ctx, al, obj, err)
	}
	klog.FromContext(ctx).Info("Using a claim that exists", "claim", klog.KObj(obj))
	return al.provider.ReadClaim(obj), nil
}

// judgeReuse tells, by its error, why a claim that exists cannot be used. The order of
// the cases matters: first claims that are passed over, even while they are deleted;
// then those that cool down, are going or are for another pool, whoever has them; then
// our own, which must have no machine; last those of somebody else, which must be offered.
func (a *Allocator) judgeReuse(claim ipam.Claim, al *allocation) error {
	name, owned, want := claim.GetName(), len(claim.GetOwnerReferences()) > 0, al.want
	ours := al.Machine.Holder().Marks(claim) || ipam.IsKeptFor(claim, al.Owner)
	switch {
	case isPassedOver(claim, al):
		return errPassOver
	case ipam.IsReleased(claim):
		return a.coolingDown(al, claim.GetName(), claim.Pool)
	case !claim.GetDeletionTimestamp().IsZero():
		return terminating(al)
	case claim.Pool != want.Pool:
		return ipam.Refuse(ipam.ClaimNotOurs, "claim %q in namespace %q exists and is for %s %q, not for %s %q: delete it, or name that pool in %s",
			name, claim.GetNamespace(), claim.Pool.Kind, claim.Pool.Name, want.Pool.Kind, want.Pool.Name, want.AskedBy)
	case al.owns(claim):
		// Whoever made it: the static IP adapter as well.
		return nil
	case ours && owned:
		return ipam.Refuse(ipam.ClaimTerminating, "claim %q in namespace %q still belongs to an earlier %s of this name: retry when it is gone",
			name, claim.GetNamespace(), al.Machine.Noun())
	case ours:
		return nil
	case al.Machine.Kind == ipam.OfCluster:
		return ipam.Refuse(ipam.ClaimNotOurs, "claim %q in namespace %q exists and belongs to something else: delete it, or give the VSphereCluster another name",
			name, claim.GetNamespace())
	case owned || claim.GetAnnotations()[ipam.ForAnnotation] != al.Machine.Name:
		return ipam.Refuse(ipam.ClaimNotOurs, "claim %q in namespace %q exists and belongs to something else: delete it, give the machine another name, "+
			"or annotate the claim with %s: <name of the machine>", name, claim.GetNamespace(), ipam.ForAnnotation)
	}
	return nil
}

func terminating(al *allocation) error {
	return ipam.Refuse(ipam.ClaimTerminating, "claim %q of %s %q in namespace %q, or its address, is still being deleted: retry when it is gone",
		al.claim, al.want.Pool.Kind, al.want.Pool.Name, al.Machine.Namespace)
}

// coolingDown refuses a name whose claim, or what is left of it, is kept from being used
// again for a while.
func (a *Allocator) coolingDown(al *allocation, claim string, pool ipam.PoolReference) error {
	after := ""
	if pool == al.want.Pool {
		after = ipam.CoolsFor(al.pool, a.ReuseAfter)
	}
	if after == "" {
		after = "a while"
	}
	noun := al.Machine.Noun()
	return ipam.Refuse(ipam.CoolingDown, "claim %q of %s is kept for %s after its %s went: retry then, or give the %s another name",
		claim, pool.In(al.Machine.Namespace), after, noun, noun)
}
