package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// claimWatch follows all claims of a namespace on one watch, so that what is
// measured does not depend on how often somebody looks.
type claimWatch struct {
	mu      sync.Mutex
	waiting map[string][]waiter
	// broken is closed when the watch ends.
	broken chan struct{}
}

// waiter waits for an event of one claim.
type waiter struct {
	fulfils func(watch.Event) bool
	done    chan struct{}
}

func watchClaims(ctx context.Context, c client.WithWatch, namespace string) (*claimWatch, error) {
	now := &ipamv1.IPClaimList{}
	if err := c.List(ctx, now, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("watching claims: %w", err)
	}
	// An API server that is busy ends watches; this one is taken up where it ended.
	events, err := toolswatch.NewRetryWatcherWithContext(ctx, now.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, &ipamv1.IPClaimList{}, client.InNamespace(namespace), &client.ListOptions{Raw: &options})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watching claims: %w", err)
	}
	w := &claimWatch{waiting: map[string][]waiter{}, broken: make(chan struct{})}
	go func() {
		defer close(w.broken)
		for event := range events.ResultChan() {
			w.handle(event)
		}
	}()
	return w, nil
}

func (w *claimWatch) handle(event watch.Event) {
	claim, ok := event.Object.(*ipamv1.IPClaim)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []waiter
	for _, waiter := range w.waiting[claim.Name] {
		if waiter.fulfils(event) {
			close(waiter.done)
		} else {
			left = append(left, waiter)
		}
	}
	if len(left) == 0 {
		delete(w.waiting, claim.Name)
		return
	}
	w.waiting[claim.Name] = left
}

// bound returns a function that waits until metal3 has bound the claim. What
// happens from now on counts, so it is called before the claim is made.
func (w *claimWatch) bound(claim string) func(context.Context) error {
	return w.expect(claim, func(event watch.Event) bool {
		return event.Object.(*ipamv1.IPClaim).Status.Address != nil
	})
}

// gone returns a function that waits until the claim, and so its address, is gone.
func (w *claimWatch) gone(claim string) func(context.Context) error {
	return w.expect(claim, func(event watch.Event) bool { return event.Type == watch.Deleted })
}

func (w *claimWatch) expect(claim string, fulfils func(watch.Event) bool) func(context.Context) error {
	done := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting[claim] = append(w.waiting[claim], waiter{fulfils, done})
	return func(ctx context.Context) error {
		select {
		case <-done:
			return nil
		case <-w.broken:
			return errors.New("the watch on claims ended")
		case <-ctx.Done():
			return fmt.Errorf("waiting for claim %s: %w", claim, ctx.Err())
		}
	}
}
