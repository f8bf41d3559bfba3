package allocator

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// inFlightTime is for how long an address that was taken here may be missing in the cache.
// After that others try to take it, which costs them a call.
const inFlightTime = 10 * time.Second

// inFlight are the address objects that requests of this replica are making, or have made
// so lately that the cache does not have them. It spares the requests beside each other what
// they would fail with.
type inFlight struct {
	mu    sync.Mutex
	taken map[types.NamespacedName]flight
	swept time.Time
}

// flight is for which claim an address is made, since when, and what ends with it.
type flight struct {
	claim types.NamespacedName
	since time.Time
	over  chan struct{}
}

// begin notes an address that is about to be made for a claim. It is false if one is already,
// for this claim or another, and returns what is known of that.
func (f *inFlight) begin(address, claim types.NamespacedName) (begun bool, other flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.swept) > inFlightTime {
		maps.DeleteFunc(f.taken, func(_ types.NamespacedName, made flight) bool { return made.isOver(now) })
		f.swept = now
	}
	if made, is := f.taken[address]; is {
		if !made.isOver(now) {
			return false, made
		}
		delete(f.taken, address)
	}
	if f.taken == nil {
		f.taken = map[types.NamespacedName]flight{}
	}
	f.taken[address] = flight{claim, now, make(chan struct{})}
	return true, flight{}
}

// isOver closes what ends with a flight that has lasted too long.
func (made flight) isOver(now time.Time) bool {
	if now.Sub(made.since) <= inFlightTime {
		return false
	}
	close(made.over)
	return true
}

// end notes that the cache has the address, or that it was not made.
func (f *inFlight) end(address types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if made, is := f.taken[address]; is {
		close(made.over)
		delete(f.taken, address)
	}
}
