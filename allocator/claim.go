package allocator

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ensureClaim makes the claim for a want, or takes the one that exists if that
// is safe, and stamps it with the request.
func (a *Allocator) ensureClaim(ctx context.Context, req Request, want Want, pool Pool) (Claim, error) {
	key := req.claimKey(want)
	provider := a.providers.For(want.Pool)
	obj := provider.NewClaim(key.Name, req.Machine, want.Pool)
	Mark(obj, req.Machine)
	Use(obj, req.Stamp)
	SetAnnotation(obj, RequestedByAnnotation, "none")
	err := a.client.Create(ctx, obj)
	switch {
	case err == nil:
		claimsMade.Inc()
		klog.FromContext(ctx).Info("Claimed an address", "claim", klog.KObj(obj), "pool", want.Pool.Name)
		return provider.Claim(obj), nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return Claim{}, Refuse(NamespaceGone, "namespace %q is being deleted: nothing can be claimed in it; use another namespace", key.Namespace)
	case !apierrors.IsAlreadyExists(err):
		return Claim{}, notWritten(ctx, want, pool, obj, err)
	}

	if err := a.seeNoLiveMachine(ctx, req.Machine); err != nil {
		return Claim{}, err
	}
	var claim Claim
	err = retryOnConflict(func() error {
		var err error
		claim, err = a.reuse(ctx, req, want, pool)
		return err
	})
	return claim, err
}

// notWritten says why a claim could not be made or stamped. A webhook of the
// provider's guards its claims: an internal error is how the API server says that
// it cannot be called, and if it does not answer, neither does the API server.
func notWritten(ctx context.Context, want Want, pool Pool, claim client.Object, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return notBoundInTime(pool)
	case !apierrors.IsInternalError(err):
		return fmt.Errorf("claiming an address from %s %s: %w", want.Pool.Kind, want.Pool.Name, err)
	}
	klog.FromContext(ctx).Error(err, "Cannot write a claim", "claim", klog.KObj(claim))
	return Refuse(PoolNotServed, "no claim can be made on %s %q in namespace %q: is the IPAM controller of %s running? Start it, or see its log",
		want.Pool.Kind, want.Pool.Name, claim.GetNamespace(), want.Pool.APIGroup)
}

// reuse stamps a claim that exists already: from an earlier try of the same
// create, or made by others with nothing that ties it to them. The stamp is
// written against the resourceVersion just judged, so a conflict means: judge again.
func (a *Allocator) reuse(ctx context.Context, req Request, want Want, pool Pool) (Claim, error) {
	key := req.claimKey(want)
	provider := a.providers.For(want.Pool)
	obj := EmptyClaim(provider)
	if err := a.live.Get(ctx, key, obj); err != nil {
		if apierrors.IsNotFound(err) {
			return Claim{}, terminating(want, key)
		}
		return Claim{}, fmt.Errorf("reading claim %s: %w", key, err)
	}
	claim := provider.Claim(obj)
	if err := a.judgeReuse(claim, req, want); err != nil {
		return Claim{}, err
	}
	Mark(obj, req.Machine)
	Use(obj, req.Stamp)
	if err := a.client.Update(ctx, obj); err != nil {
		return Claim{}, notWritten(ctx, want, pool, obj, err)
	}
	klog.FromContext(ctx).Info("Using a claim that exists", "claim", klog.KObj(obj))
	return provider.Claim(obj), nil
}

func (a *Allocator) judgeReuse(claim Claim, req Request, want Want) error {
	name, ours := claim.GetName(), IsMarked(claim, req.Machine.Name)
	switch {
	case !claim.GetDeletionTimestamp().IsZero():
		return terminating(want, client.ObjectKeyFromObject(claim))
	case claim.Pool != want.Pool:
		return Refuse(ClaimNotOurs, "claim %q in namespace %q exists and is for %s %q, not for %s %q: delete it, or name that pool in %s",
			name, claim.GetNamespace(), claim.Pool.Kind, claim.Pool.Name, want.Pool.Kind, want.Pool.Name, want.AskedBy)
	case ours && len(claim.GetOwnerReferences()) > 0:
		return Refuse(ClaimTerminating, "claim %q in namespace %q still belongs to an earlier machine of this name: retry when it is gone",
			name, claim.GetNamespace())
	case !ours && (len(claim.GetOwnerReferences()) > 0 || !a.providers.For(want.Pool).IsFree(claim.Object)):
		return Refuse(ClaimNotOurs, "claim %q in namespace %q exists and belongs to something else: delete it, or give the machine another name",
			name, claim.GetNamespace())
	}
	return nil
}

func terminating(want Want, claim types.NamespacedName) error {
	return Refuse(ClaimTerminating, "claim %q of %s %q in namespace %q, or its address, is still being deleted: retry when it is gone",
		claim.Name, want.Pool.Kind, want.Pool.Name, claim.Namespace)
}

// TakeBack deletes the claims that this request made or used and nobody used
// since, and unprotects their addresses. It gives up on a claim whose machine exists or whose stamp is another
// request's: the same create may have come in twice, and the other may win.
func (a *Allocator) TakeBack(ctx context.Context, req Request) error {
	var errs []error
	for _, want := range req.Wants {
		key := req.claimKey(want)
		err := retryOnConflict(func() error {
			return a.takeBack(ctx, req, key, a.providers.For(want.Pool))
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("taking back claim %s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

func (a *Allocator) takeBack(ctx context.Context, req Request, key types.NamespacedName, provider Provider) error {
	claim := EmptyClaim(provider)
	if err := a.live.Get(ctx, key, claim); err != nil {
		return client.IgnoreNotFound(err)
	}
	if claim.GetAnnotations()[LastUsedAnnotation] != req.Stamp.String() || !claim.GetDeletionTimestamp().IsZero() {
		return nil
	}
	exists, err := machineExists(ctx, a.live, req.Machine.NamespacedName)
	if err != nil || exists {
		return err
	}
	if err := DeleteAsRead(ctx, a.client, claim); err != nil {
		return err
	}
	claimsTakenBack.Inc()
	klog.FromContext(ctx).Info("Took back a claim", "claim", klog.KObj(claim))
	return a.unprotect(ctx, provider, claim)
}

// DeleteAsRead deletes an object unless it has changed, or has been replaced,
// since it was read: then it returns a conflict. That it is gone is no error.
func DeleteAsRead(ctx context.Context, c client.Writer, obj client.Object) error {
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	err := c.Delete(ctx, obj, client.Preconditions{UID: &uid, ResourceVersion: &version})
	return client.IgnoreNotFound(err)
}
