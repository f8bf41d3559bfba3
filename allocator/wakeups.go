package allocator

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// wakeups wakes the requests that wait for a claim when a watch says that the
// claim, or an address that answers it, has changed.
type wakeups struct {
	mu      sync.Mutex
	waiting map[types.NamespacedName]map[chan struct{}]struct{}
}

// subscribe returns a channel that receives after every later notify for the
// claim, and a function that ends the subscription. Changes that come faster
// than they are received become one.
func (w *wakeups) subscribe(claim types.NamespacedName) (<-chan struct{}, func()) {
	woken := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = map[types.NamespacedName]map[chan struct{}]struct{}{}
	}
	if w.waiting[claim] == nil {
		w.waiting[claim] = map[chan struct{}]struct{}{}
	}
	w.waiting[claim][woken] = struct{}{}

	return woken, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting[claim], woken)
		if len(w.waiting[claim]) == 0 {
			delete(w.waiting, claim)
		}
	}
}

func (w *wakeups) notify(claim types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for woken := range w.waiting[claim] {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
}
