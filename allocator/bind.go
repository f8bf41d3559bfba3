package allocator

import (
	"context"
	"errors"
	"slices"
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

// bindAll claims an address for each allocation of an attempt, and then waits for all.
func (a *Allocator) bindAll(ctx context.Context, attempt *Attempt, claims *requestClaims) error {
	attempt.claiming = true
	bindings := make([]ipam.Binding, len(attempt.allocations))
	for _, round := range attempt.rounds() {
		if err := a.bindRound(ctx, attempt, round, claims, bindings); err != nil {
			return err
		}
	}
	attempt.Bindings = bindings
	return nil
}

// rounds are the places of the allocations that are claimed at once: of all, as a rule. But
// an address that is wanted, and none else, must be bound before others of the machine are
// claimed from its pool: its provider might give it to one of these.
func (t *Attempt) rounds() [][]int {
	var given, others []int
	for i, al := range t.allocations {
		if al.want.IP.IsValid() {
			given = append(given, i)
			continue
		}
		others = append(others, i)
	}
	isShared := slices.ContainsFunc(given, func(i int) bool {
		return slices.ContainsFunc(others, func(j int) bool { return t.allocations[i].want.Pool == t.allocations[j].want.Pool })
	})
	if isShared {
		return [][]int{given, others}
	}
	all := slices.Concat(given, others)
	slices.Sort(all)
	return [][]int{all}
}

// bindRound claims an address for each of these allocations, and then waits for them.
func (a *Allocator) bindRound(ctx context.Context, attempt *Attempt, round []int, claims *requestClaims, bindings []ipam.Binding) error {
	made := make([]ipam.Claim, len(attempt.allocations))
	var claimed []int
	var taken turns
	defer func() { taken.end() }()
	for _, i := range round {
		al := attempt.allocations[i]
		binding, end, err := a.takeOrWait(ctx, attempt, al, claims)
		taken = append(taken, end...)
		if err == nil {
			if bindings[i], err = binding, attempt.add(al, binding); err != nil {
				return err
			}
			continue
		}
		if !errors.Is(err, errNotTaken) {
			return err
		}
		if made[i], err = a.claim(ctx, al, claims); err != nil {
			return err
		}
		claimed = append(claimed, i)
	}
	for _, i := range claimed {
		al := attempt.allocations[i]
		binding, err := a.bind(ctx, attempt, al, bindingOf{claims, made[i]})
		if err != nil {
			attempt.noteLate(i, err)
			return err
		}
		if bindings[i], err = binding, attempt.add(al, binding); err != nil {
			return err
		}
	}
	return nil
}

// add notes a binding, unless it is of an address that the attempt has already.
func (t *Attempt) add(al *allocation, binding ipam.Binding) error {
	if err := checkDistinct(t.Bindings, binding, al.Machine.Namespace); err != nil {
		return err
	}
	t.Bindings = append(t.Bindings, binding)
	return nil
}

// takeOrWait takes an address without the provider. It returns errNotTaken if the provider is
// to be asked: where it had looked as if it need not be, with a turn to do so.
func (a *Allocator) takeOrWait(ctx context.Context, attempt *Attempt, al *allocation, claims *requestClaims) (ipam.Binding, turns, error) {
	if !a.takes(al) {
		return ipam.Binding{}, nil, errNotTaken
	}
	claims.note(al.claimKey())
	binding, err := a.take(ctx, al)
	if !errors.Is(err, errNotTaken) {
		return binding, nil, err
	}
	// The cache was behind, or all that is left is used by somebody else.
	if err := a.planFrom(ctx, a.live, attempt); err != nil {
		return ipam.Binding{}, nil, err
	}
	_, end, err := a.takeTurn(ctx, al)
	if err != nil {
		return ipam.Binding{}, nil, notBoundInTime(al)
	}
	return ipam.Binding{}, turns{end}, errNotTaken
}

// noteLate notes, where an allocation was not bound in time, that neither were those after
// it, which nobody has waited for.
func (t *Attempt) noteLate(failed int, err error) {
	refusal, refused := ipam.AsRefusal(err)
	if refused && refusal.Reason == ipam.NotBoundInTime || errors.Is(err, context.DeadlineExceeded) {
		for _, al := range t.allocations[failed:] {
			al.late = true
		}
	}
}

// bind waits for the address of a claim. An address that cannot be given is set
// aside, so that the provider does not offer it again, and the next one claimed.
func (a *Allocator) bind(ctx context.Context, attempt *Attempt, al *allocation, of bindingOf) (ipam.Binding, error) {
	claim := of.claim
	for try := 1; ; try++ {
		start := time.Now()
		binding, err := a.await(ctx, al, claim)
		bad, ok := asUnfit(err, al.want.Network())
		if !ok {
			if err == nil {
				providerWait.WithLabelValues(al.want.Pool.Kind).Observe(time.Since(start).Seconds())
			}
			return binding, err
		}
		if aside := a.setAside(ctx, al, claim, bad); aside != nil {
			return ipam.Binding{}, aside
		}
		if try == maxClaimTries {
			return ipam.Binding{}, triedTooOften(al)
		}
		al.startAnew()
		// With one address fewer there may be none left.
		if err := a.plan(ctx, attempt); err != nil {
			return ipam.Binding{}, err
		}
		if claim, err = a.claim(ctx, al, of.claims); err != nil {
			return ipam.Binding{}, err
		}
	}
}

// bindingOf is what bind needs of the claims.
type bindingOf struct {
	claims *requestClaims
	claim  ipam.Claim
}

// claim makes or takes the claim of an allocation.
func (a *Allocator) claim(ctx context.Context, al *allocation, claims *requestClaims) (ipam.Claim, error) {
	// The claim is under way from before it exists, whatever its name will be.
	claims.note(al.claimKey())
	claim, err := a.ensureClaim(ctx, al)
	if err != nil {
		return ipam.Claim{}, err
	}
	claims.note(al.claimKey())
	return claim, nil
}

// turns are those that one request has on its pools.
type turns []func()

func (t turns) end() {
	for _, end := range t {
		end()
	}
}

// takeTurns takes a turn on each pool that was chosen. If others are chosen while it waits,
// it takes turns on these.
func (a *Allocator) takeTurns(ctx context.Context, attempt *Attempt) (turns, error) {
	for {
		taken, changed, err := a.tryTurns(ctx, attempt)
		if err == nil && !changed {
			return taken, nil
		}
		taken.end()
		if err != nil {
			return nil, err
		}
	}
}

// tryTurns takes the turns in the order of the pools' names, so that no two requests wait
// for each other. It tells whether other pools are chosen by now: who waited may find
// that others have taken the last addresses.
func (a *Allocator) tryTurns(ctx context.Context, attempt *Attempt) (taken turns, changed bool, err error) {
	allocations := attempt.byPool()
	pools := chosenBy(allocations)
	waited := false
	for _, al := range allocations {
		if a.takesAllOf(attempt, al.want.Pool) {
			continue
		}
		had, end, err := a.takeTurn(ctx, al)
		if err != nil {
			return taken, false, notBoundInTime(al)
		}
		taken, waited = append(taken, end), waited || had
	}
	if waited {
		if err := a.plan(ctx, attempt); err != nil {
			return taken, false, err
		}
		if !slices.Equal(pools, chosenBy(attempt.byPool())) {
			return taken, true, nil
		}
	}
	for _, al := range allocations {
		if err := a.awaitStored(ctx, al); err != nil {
			return taken, false, err
		}
	}
	return taken, false, nil
}

// takesAllOf tells whether all that is wanted of a pool is taken without its provider.
func (a *Allocator) takesAllOf(attempt *Attempt, pool ipam.PoolReference) bool {
	return !slices.ContainsFunc(attempt.allocations, func(al *allocation) bool { return al.want.Pool == pool && !a.takes(al) })
}

func chosenBy(allocations []*allocation) []ipam.PoolReference {
	references := make([]ipam.PoolReference, len(allocations))
	for i, al := range allocations {
		references[i] = al.want.Pool
	}
	return references
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
