package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// providerPatience is for how long a machine waits for a provider that cannot
	// be written to: metal3 guards its objects by webhooks, which refuse
	// everything while it is down.
	providerPatience = 30 * time.Second
	// providerRetry is how often such a write is tried again.
	providerRetry = 5 * time.Second
)

// stepError is that of a step that could not be taken.
type stepError struct {
	step step
	err  error
}

// Error says which step failed, and why.
func (e *stepError) Error() string { return fmt.Sprintf("performing %q: %v", e.step, e.err) }

// Unwrap is what the API server said.
func (e *stepError) Unwrap() error { return e.err }

// isUnserved tells whether a provider's webhook could not be called: an internal
// error is how the API server says that.
func isUnserved(err error) bool {
	var failed *stepError
	return errors.As(err, &failed) && apierrors.IsInternalError(err)
}

// isStuck tells whether a machine that is done has waited long enough for its
// bindings to be given back. It may go without: they stay protected, and what is
// left of a machine is given back without it.
func (r *Reconciler) isStuck(ctx context.Context, s *state, err error) bool {
	var failed *stepError
	if !s.done || s.moving || !errors.As(err, &failed) || apierrors.IsConflict(err) {
		return false
	}
	since := r.failures.update(client.ObjectKeyFromObject(s.object), func(t *time.Time) {
		if t.IsZero() {
			*t = r.now()
		}
	})
	if r.now().Sub(since) < providerPatience {
		return false
	}
	klog.FromContext(ctx).Error(err, "Removing our finalizer from a machine whose addresses cannot be given back now")
	r.event(s, corev1.EventTypeWarning, "AddressKept",
		"The addresses of this machine cannot be given back now, because their IPAM provider cannot be written to: they stay taken until it can")
	return true
}
