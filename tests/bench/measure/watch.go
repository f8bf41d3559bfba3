package measure

import (
	"context"
	"errors"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Watch follows all objects of a kind in a namespace on one watch, so that what
// is measured does not depend on how often somebody looks.
type Watch struct {
	mu      sync.Mutex
	waiting map[string][]waiter
	// broken is closed when the watch ends.
	broken chan struct{}
}

// waiter waits for an event of one object.
type waiter struct {
	fulfils func(watch.Event) bool
	done    chan struct{}
}

// NewWatch begins to follow the objects of the kind of this empty list.
func NewWatch(ctx context.Context, c client.WithWatch, kind client.ObjectList, namespace string) (*Watch, error) {
	now := kind.DeepCopyObject().(client.ObjectList)
	if err := c.List(ctx, now, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("watching %T: %w", kind, err)
	}
	// An API server that is busy ends watches; this one is taken up where it ended.
	events, err := toolswatch.NewRetryWatcherWithContext(ctx, now.GetResourceVersion(), &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, kind.DeepCopyObject().(client.ObjectList), client.InNamespace(namespace), &client.ListOptions{Raw: &options})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watching %T: %w", kind, err)
	}
	w := &Watch{waiting: map[string][]waiter{}, broken: make(chan struct{})}
	go func() {
		defer close(w.broken)
		for event := range events.ResultChan() {
			w.handle(event)
		}
	}()
	return w, nil
}

func (w *Watch) handle(event watch.Event) {
	obj, ok := event.Object.(client.Object)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []waiter
	for _, waiter := range w.waiting[obj.GetName()] {
		if waiter.fulfils(event) {
			close(waiter.done)
		} else {
			left = append(left, waiter)
		}
	}
	if len(left) == 0 {
		delete(w.waiting, obj.GetName())
		return
	}
	w.waiting[obj.GetName()] = left
}

// Expect returns a function that waits until an event of the object of this name
// fulfils a condition. What happens from now on counts, so it is called before
// what it waits for is begun.
func (w *Watch) Expect(name string, fulfils func(watch.Event) bool) func(context.Context) error {
	done := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting[name] = append(w.waiting[name], waiter{fulfils, done})
	return func(ctx context.Context) error {
		select {
		case <-done:
			return nil
		case <-w.broken:
			return errors.New("the watch ended")
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", name, ctx.Err())
		}
	}
}
