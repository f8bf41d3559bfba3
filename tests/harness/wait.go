package harness

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

const (
	// Soon is a deadline for what should take a fraction of a second, with room
	// for a machine that is busy.
	Soon = 20 * time.Second
	// A condition is looked at again after firstLook, and then less and less often: what
	// is long in coming loads the machine, and so all other tests, with every look.
	firstLook = 20 * time.Millisecond
	// lastLook is how late it may be known that a condition holds.
	lastLook = 250 * time.Millisecond
	// watchInterval is how often that is looked at which may change at any time.
	watchInterval = 50 * time.Millisecond
)

// Eventually waits until a condition holds, that is until it returns nil, and
// returns what was last missing if it does not hold in time. What is waited for
// is said in the error, as in "waiting for the claim to be released".
func Eventually(ctx context.Context, timeout time.Duration, what string, condition func(context.Context) error) error {
	whole := ctx
	ctx, cancel := context.WithTimeout(whole, timeout)
	defer cancel()
	looks := wait.Backoff{Duration: firstLook, Factor: 1.2, Steps: math.MaxInt, Cap: lastLook}
	var last error
	for {
		err := condition(ctx)
		switch ended := ctx.Err(); {
		case ended == nil && err == nil:
			return nil
		case ended == nil:
			last = err
		case err == nil:
			// It was late, or holds only since it was cut short: another look tells.
			if err = holds(whole, timeout, condition); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting %s for %s: %w", timeout, what, cmp.Or(last, err, ctx.Err()))
		case <-time.After(looks.Step()):
		}
	}
}

// holds looks once whether a condition holds within this time.
func holds(ctx context.Context, timeout time.Duration, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return cmp.Or(condition(ctx), ctx.Err())
}

// Consistently watches that a condition holds for a while, and returns the
// error at which it ceases to.
func Consistently(ctx context.Context, during time.Duration, what string, condition func(context.Context) error) error {
	end := time.After(during)
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		if err := condition(ctx); err != nil {
			return fmt.Errorf("expecting for %s that %s: %w", during, what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("expecting for %s that %s: %w", during, what, ctx.Err())
		case <-end:
			return nil
		case <-ticker.C:
		}
	}
}

// WaitGone waits until an object does not exist any more, or exists anew under
// another UID.
func WaitGone(ctx context.Context, c client.Client, object client.Object, timeout time.Duration) error {
	uid := object.GetUID()
	what := fmt.Sprintf("%T %s to be gone", object, object.GetName())
	return Eventually(ctx, timeout, what, func(ctx context.Context) error {
		err := c.Get(ctx, client.ObjectKeyFromObject(object), object)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case uid != "" && object.GetUID() != uid:
			return nil
		default:
			return fmt.Errorf("it exists, deleted at %v, with finalizers %v", object.GetDeletionTimestamp(), object.GetFinalizers())
		}
	})
}

// WaitBound waits until a provider has bound a claim, reads the claim as it then
// is, and returns its address.
func WaitBound(ctx context.Context, c client.Client, claim client.Object, timeout time.Duration) (ipam.Address, error) {
	provider := ProviderOf(claim)
	address := ipam.EmptyAddress(provider)
	err := Eventually(ctx, timeout, "claim "+claim.GetName()+" to be bound", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(claim), claim); err != nil {
			return err
		}
		seen := provider.ReadClaim(claim)
		if seen.Address == "" {
			return fmt.Errorf("it names no address; its provider says %q", seen.Failure+seen.Waits)
		}
		return c.Get(ctx, client.ObjectKey{Namespace: claim.GetNamespace(), Name: seen.Address}, address)
	})
	return provider.ReadAddress(address), err
}
