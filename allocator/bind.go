package allocator

import (
	"context"
	"errors"
	"sync"
	"time"

	"capv-static-ip.dev/allocator/ipam"
)

const (
	// leastBindingTime is the time that it takes, at the least, to have a claim
	// bound. With less left, no claim is made.
	leastBindingTime = time.Second
	// maxTurn is how long a claim may keep its turn. A provider that works binds
	// it sooner; one that ignores it must not hold up the others.
	maxTurn = 2 * time.Second
)

// bind claims an address for one want. An address that cannot be given is set
// aside, so that the provider does not offer it again, and the next one claimed.
func (a *Allocator) bind(ctx context.Context, attempt *Attempt, al *allocation, claims *requestClaims) (ipam.Binding, error) {
	for range maxClaimTries {
		binding, claim, err := a.claimAndAwait(ctx, attempt, al, claims)
		bad, ok := asUnfit(err, al.want.Network())
		if !ok {
			return binding, err
		}
		if aside := a.setAside(ctx, al, claim, bad); aside != nil {
			return ipam.Binding{}, aside
		}
		al.startAnew()
		// With one address fewer there may be none left.
		if err := a.plan(ctx, attempt); err != nil {
			return ipam.Binding{}, err
		}
	}
	return ipam.Binding{}, triedTooOften(al)
}

// claimAndAwait makes a claim when it is the request's turn, and waits for its
// address.
func (a *Allocator) claimAndAwait(ctx context.Context, attempt *Attempt, al *allocation, claims *requestClaims) (ipam.Binding, ipam.Claim, error) {
	waited, end, err := a.takeTurn(ctx, al)
	if err != nil {
		return ipam.Binding{}, ipam.Claim{}, notBoundInTime(al)
	}
	defer end()
	if waited {
		// Others may have taken the last addresses meanwhile.
		if err := a.plan(ctx, attempt); err != nil {
			return ipam.Binding{}, ipam.Claim{}, err
		}
	}
	if err := a.awaitStored(ctx, al); err != nil {
		return ipam.Binding{}, ipam.Claim{}, err
	}
	// The claim is under way from before it exists, whatever its name will be.
	claims.note(al.claimKey())
	claim, err := a.ensureClaim(ctx, al)
	if err != nil {
		return ipam.Binding{}, ipam.Claim{}, err
	}
	claims.note(al.claimKey())
	start := time.Now()
	binding, err := a.await(ctx, al, claim)
	if err != nil {
		refusal, refused := ipam.AsRefusal(err)
		al.late = refused && refusal.Reason == ipam.NotBoundInTime || errors.Is(err, context.DeadlineExceeded)
		return ipam.Binding{}, claim, err
	}
	providerWait.WithLabelValues(al.want.Pool.Kind).Observe(time.Since(start).Seconds())
	return binding, claim, nil
}

// takeTurn takes a turn on the pool while there is enough time left for it. The
// turn ends with the returned function, or by itself after maxTurn.
func (a *Allocator) takeTurn(ctx context.Context, al *allocation) (waited bool, end func(), err error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-leastBindingTime))
		defer cancel()
	}
	waited, release, err := a.queue.enter(ctx, queueKeyOf(al.pool, al.Machine.Namespace))
	if err != nil {
		return waited, nil, err
	}
	release = sync.OnceFunc(release)
	limit := time.AfterFunc(maxTurn, release)
	return waited, func() {
		limit.Stop()
		release()
	}, nil
}

const (
	// maxClaimTries bounds the claims that one request makes for a device because
	// the addresses of earlier ones had to be set aside.
	maxClaimTries = 4
	// maxClaimNames bounds the names that they may have: all claims that keep an
	// address of the pool aside may have been made for machines of one name.
	maxClaimNames = maxSetAside + maxClaimTries
)
