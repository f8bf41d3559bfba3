package retry

import (
	"hash/fnv"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// patrolInterval is after how long an owner is touched that waits for a pool
	// which does not serve: in case that a change was missed, or cured it.
	patrolInterval = 5 * time.Minute
	// cacheDelay is the time in which a change reaches the caches of all replicas. A
	// touch that came before its end may have been refused for what was before.
	cacheDelay = 3 * time.Second
)

// refused is an owner of refused machines.
type refused struct {
	uid types.UID
	// needsTry says that nothing else shows whether the cause is gone.
	needsTry bool
}

// visit is what is remembered of one refused owner.
type visit struct {
	// since is when it was first seen to wait, this time.
	since time.Time
	waits bool
	// last is when it was last touched, for whatever reason.
	last time.Time
	// count is how often it was touched because it was time.
	count int
}

// round is what is remembered of the refused owners of a namespace.
type round struct {
	visits map[types.UID]*visit
}

func newRound() *round { return &round{visits: map[types.UID]*visit{}} }

// next is who is to be touched now, by their place in the list, those first who
// are the longest overdue, and when to look again; zero waits for a change. What
// changed may have cured any of them.
func (r *round) next(owners []refused, changed, now time.Time) (due []int, wait time.Duration) {
	r.observe(owners, now)
	dueAt := make([]time.Time, len(owners))
	for i, owner := range owners {
		dueAt[i] = r.visits[owner.uid].dueAt(owner, changed)
		until := dueAt[i].Sub(now)
		switch {
		case until <= 0:
			due = append(due, i)
		case wait == 0 || until < wait:
			wait = until
		}
	}
	slices.SortStableFunc(due, func(a, b int) int { return dueAt[a].Compare(dueAt[b]) })
	return due, wait
}

// observe notes who waits. Who does no more is forgotten in a while: if it waits
// soon again, its last touch did not help it.
func (r *round) observe(owners []refused, now time.Time) {
	waiting := map[types.UID]bool{}
	for _, owner := range owners {
		waiting[owner.uid] = true
		if r.visits[owner.uid] == nil {
			r.visits[owner.uid] = &visit{}
		}
		if v := r.visits[owner.uid]; !v.waits {
			v.since, v.waits = now, true
		}
	}
	for uid, v := range r.visits {
		if !waiting[uid] {
			v.waits = false
		}
	}
}

// dueAt is when the owner may be touched next.
func (v *visit) dueAt(owner refused, changed time.Time) time.Time {
	since, interval := v.since, patrolInterval
	if owner.needsTry {
		interval = v.interval(owner.uid)
	}
	// Who waits again after a touch goes on waiting: it may take a while until a
	// refusal is noted.
	if v.last.After(since) || since.Sub(v.last) < interval {
		since = v.last
	}
	at := since.Add(interval)
	if cured := v.afterChange(changed); !cured.IsZero() && cured.Before(at) {
		return cured
	}
	return at
}

// interval grows up to maxInterval. It differs from owner to owner, so that those
// that were refused together do not all try together.
func (v *visit) interval(uid types.UID) time.Duration {
	interval := firstInterval
	for i := 0; i < v.count && interval < maxInterval; i++ {
		interval *= 2
	}
	interval = min(interval, maxInterval)
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(uid))
	return interval - interval/4*time.Duration(hash.Sum32()%1000)/1000
}

// afterChange is when to touch an owner for a change: at once, and again when
// everybody has seen the change, if it was refused in between. It is zero if it
// was refused after the change.
func (v *visit) afterChange(changed time.Time) time.Time {
	settled := changed.Add(cacheDelay)
	switch {
	case changed.IsZero(), v.since.After(settled), !v.last.Before(settled):
		return time.Time{}
	case v.last.Before(changed):
		return changed
	}
	return settled
}

// touched notes that an owner was touched, be it by the patrol or not.
func (r *round) touched(uid types.UID, now time.Time) {
	if r.visits[uid] == nil {
		r.visits[uid] = &visit{}
	}
	r.visits[uid].last = now
}

// visited notes that a touch was made because it was time.
func (r *round) visited(uid types.UID) { r.visits[uid].count++ }

// forgettable tells whether nothing remembered matters any more.
func (r *round) forgettable(now time.Time) bool {
	for uid, v := range r.visits {
		if !v.waits && now.Sub(v.last) >= 2*maxInterval {
			delete(r.visits, uid)
		}
	}
	return len(r.visits) == 0
}
