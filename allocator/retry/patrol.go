package retry

import (
	"context"
	"errors"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// patrol looks after the owners of a namespace: those that were refused, and those
// that were and have tried again.
func (r *reconciler) patrol(ctx context.Context, namespace string) (reconcile.Result, error) {
	settled, settling := r.settle(ctx, namespace)
	result, err := r.touchDue(ctx, namespace)
	if result.RequeueAfter == 0 || settled > 0 && settled < result.RequeueAfter {
		result.RequeueAfter = settled
	}
	return result, errors.Join(settling, err)
}

// touchDue touches the refused owners of a namespace whose time has come, whatever
// they wait for.
func (r *reconciler) touchDue(ctx context.Context, namespace string) (reconcile.Result, error) {
	owners, err := r.waiting(ctx, poolKey{Namespace: namespace})
	if err != nil {
		return reconcile.Result{}, err
	}
	now := r.now()
	r.forget(now)
	if len(owners) == 0 && r.rounds[namespace] == nil {
		return reconcile.Result{}, nil
	}
	round := r.roundOf(namespace)
	due, wait := round.next(refusedOwners(owners), r.changes.of(namespace), now)
	touched := 0
	var errs []error
	for _, i := range due {
		heldUp, err := r.isHeldUp(ctx, &owners[i])
		switch {
		case err != nil:
			errs = append(errs, err)
		case heldUp: // what ends that is watched
		case touched == atOnce, !r.touches.AllowN(now, 1):
			return reconcile.Result{RequeueAfter: touchDelay}, errors.Join(errs...)
		default:
			touched++
			if err := r.touch(ctx, &owners[i], "it is time"); err != nil {
				errs = append(errs, err)
				continue
			}
			round.visited(owners[i].UID)
		}
	}
	return reconcile.Result{RequeueAfter: wait}, errors.Join(errs...)
}

// atOnce is how many owners of one namespace are touched before it is another
// one's turn.
const atOnce = 10

func refusedOwners(owners []metav1.PartialObjectMetadata) []refused {
	all := make([]refused, len(owners))
	for i := range owners {
		all[i] = refused{uid: owners[i].UID, needsTry: shortagesOf(&owners[i]).HasReason()}
	}
	return all
}

func (r *reconciler) roundOf(namespace string) *round {
	if r.rounds[namespace] == nil {
		r.rounds[namespace] = newRound()
	}
	return r.rounds[namespace]
}

func (r *reconciler) forget(now time.Time) {
	for namespace, round := range r.rounds {
		if round.forgettable(now) {
			delete(r.rounds, namespace)
		}
	}
	r.changes.forget(now)
}

// changes are when something last changed, by namespace, that may have cured any
// refusal there: a template, which says what its machines ask for.
type changes struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (c *changes) note(namespace string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		c.at = map[string]time.Time{}
	}
	c.at[namespace] = now
}

func (c *changes) of(namespace string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at[namespace]
}

func (c *changes) forget(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for namespace, at := range c.at {
		if now.Sub(at) >= patrolInterval {
			delete(c.at, namespace)
		}
	}
}
