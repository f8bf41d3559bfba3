package allocator

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// notifier wakes the requests that wait for something, a claim to be bound or a
// pool to be full, when a watch says that it may have happened.
type notifier struct {
	mu      sync.Mutex
	waiting map[types.NamespacedName]map[chan struct{}]struct{}
}

// subscribe returns a channel that receives after every later notify for the
// key, and a function that ends the subscription. Changes that come faster
// than they are received become one.
func (w *notifier) subscribe(key types.NamespacedName) (<-chan struct{}, func()) {
	woken := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = map[types.NamespacedName]map[chan struct{}]struct{}{}
	}
	if w.waiting[key] == nil {
		w.waiting[key] = map[chan struct{}]struct{}{}
	}
	w.waiting[key][woken] = struct{}{}

	return woken, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting[key], woken)
		if len(w.waiting[key]) == 0 {
			delete(w.waiting, key)
		}
	}
}

func (w *notifier) notify(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for woken := range w.waiting[key] {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
}
