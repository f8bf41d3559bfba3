package retry

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// touchPatience is how long a touched owner may take for its address before the
	// next one is touched for the same: it may not need one any more.
	touchPatience = 5 * time.Second
	// minInterval is the least time between two touches of one owner.
	minInterval = time.Second
	// firstInterval is the time after which an owner is touched again for an
	// address that was free already at its last touch. It doubles with each touch
	// that changed nothing: the pool may refuse for what it does not show.
	firstInterval = 10 * time.Second
	maxInterval   = time.Minute
)

// waiter is an owner that waits for addresses of a pool.
type waiter struct {
	types.NamespacedName
	uid types.UID
	// needed is how many addresses would be enough.
	needed uint64
}

// touch is one that may still lead to an address being taken.
type touch struct {
	at     time.Time
	needed uint64
}

// attempts are the touches of one owner for the addresses that were free since
// the first of them.
type attempts struct {
	last  time.Time
	count int
}

// record is what is remembered of one pool.
type record struct {
	free uint64
	// freed is when addresses were last seen to have become free.
	freed time.Time
	// open are the touches whose addresses are still free, the oldest first.
	open  []touch
	tried map[types.UID]attempts
}

// observe notes how many addresses are free now.
func (r *record) observe(free uint64, now time.Time) {
	if free > r.free {
		r.freed = now
	}
	for taken := r.free - min(free, r.free); taken > 0 && len(r.open) > 0; {
		closed := min(taken, r.open[0].needed)
		taken -= closed
		r.open[0].needed -= closed
		if r.open[0].needed == 0 {
			r.open = r.open[1:]
		}
	}
	r.free = free
}

// next is who is to be touched now: no more owners than there are addresses
// that no other touch was for, those first whose last touch is the longest ago.
// For whom this leaves waiting it says when to look again; zero waits for a
// change.
func (r *record) next(waiters []waiter, now time.Time) (due []waiter, wait time.Duration) {
	r.open = slices.DeleteFunc(r.open, func(t touch) bool { return now.Sub(t.at) >= touchPatience })
	left := r.free
	for _, t := range r.open {
		left -= min(left, t.needed)
	}
	waiters = slices.Clone(waiters)
	slices.SortFunc(waiters, r.compare)
	for _, w := range waiters {
		until := r.dueAt(w).Sub(now)
		switch {
		case w.needed > r.free:
			continue
		case w.needed > left && len(r.open) > 0:
			until = max(until, r.open[0].at.Add(touchPatience).Sub(now))
		case w.needed > left:
			until = max(until, touchPatience) // those that are due now come first
		case until <= 0:
			due = append(due, w)
			left -= w.needed
			continue
		}
		if wait == 0 || until < wait {
			wait = until
		}
	}
	return due, wait
}

// touched notes that an owner was touched.
func (r *record) touched(w waiter, now time.Time) {
	if r.tried == nil {
		r.tried = map[types.UID]attempts{}
	}
	a := r.tried[w.uid]
	if a.last.Before(r.freed) {
		a.count = 0
	}
	r.tried[w.uid] = attempts{last: now, count: a.count + 1}
	r.open = append(r.open, touch{at: now, needed: w.needed})
}

// forgettable tells whether nothing remembered matters any more.
func (r *record) forgettable(now time.Time) bool {
	for uid, a := range r.tried {
		if now.Sub(a.last) >= 2*maxInterval {
			delete(r.tried, uid)
		}
	}
	return len(r.tried) == 0
}

// dueAt is when the owner may be touched: soon for an address that has become
// free since its last touch, later and later for one that it left.
func (r *record) dueAt(w waiter) time.Time {
	a, ok := r.tried[w.uid]
	switch {
	case !ok:
		return time.Time{}
	case a.last.Before(r.freed):
		return a.last.Add(minInterval)
	}
	interval := firstInterval
	for i := 1; i < a.count && interval < maxInterval; i++ {
		interval *= 2
	}
	return a.last.Add(min(interval, maxInterval))
}

func (r *record) compare(a, b waiter) int {
	if c := r.tried[a.uid].last.Compare(r.tried[b.uid].last); c != 0 {
		return c
	}
	return strings.Compare(a.String(), b.String())
}
