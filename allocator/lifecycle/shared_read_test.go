package lifecycle

import (
	"context"
	"errors"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reading is a read that says when it begins, and ends when it is told to.
type reading struct {
	begun, end chan struct{}
}

func newReading() *reading {
	return &reading{begun: make(chan struct{}, 10), end: make(chan struct{})}
}

func (r *reading) read() ([]metav1.PartialObjectMetadata, error) {
	r.begun <- struct{}{}
	<-r.end
	return make([]metav1.PartialObjectMetadata, 1), nil
}

// What a read has found that began before is from before.
func TestReadIsNotSharedByWhoAsksAfterItHasBegun(t *testing.T) {
	var s sharedReads
	r := newReading()
	var group sync.WaitGroup
	group.Go(func() { _, _ = s.read(t.Context(), "ns", r.read) })
	<-r.begun
	of, mine, leads := s.join("ns")
	if !leads {
		t.Fatal("it waits for a read that has begun")
	}
	close(r.end)
	group.Wait()
	select {
	case <-mine.done:
		t.Error("it has what was read before it asked")
	default:
	}
	if s.begin(of); len(s.namespaces) != 1 {
		t.Errorf("%d namespaces are remembered, want the one in which somebody waits", len(s.namespaces))
	}
	if s.forget("ns", of); len(s.namespaces) != 0 {
		t.Errorf("%d namespaces are remembered, want none", len(s.namespaces))
	}
}

func TestReadIsSharedByAllWhoAskedBeforeItBegins(t *testing.T) {
	var s sharedReads
	r := newReading()
	var group sync.WaitGroup
	ask := func() {
		group.Go(func() {
			if vms, err := s.read(t.Context(), "ns", r.read); err != nil || len(vms) != 1 {
				t.Errorf("got %d, %v", len(vms), err)
			}
		})
	}
	ask()
	<-r.begun
	of, next, leads := s.join("ns")
	if !leads {
		t.Fatal("there is a next read already")
	}
	for range 5 {
		group.Go(func() {
			if vms, err := s.read(t.Context(), "ns", r.read); err != nil || len(vms) != 2 {
				t.Errorf("got %d, %v; want what the other one has read", len(vms), err)
			}
		})
	}
	r.end <- struct{}{}
	of.turn.Lock()
	next.vms = make([]metav1.PartialObjectMetadata, 2)
	close(next.done)
	of.turn.Unlock()
	group.Wait()
}

func TestWhoWaitsForAReadStopsWhenTold(t *testing.T) {
	var s sharedReads
	s.join("ns")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.read(ctx, "ns", newReading().read); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

func TestNamespacesDoNotWaitForEachOther(t *testing.T) {
	var s sharedReads
	r := newReading()
	var group sync.WaitGroup
	for _, namespace := range []string{"a", "b"} {
		group.Go(func() { _, _ = s.read(t.Context(), namespace, r.read) })
	}
	<-r.begun
	<-r.begun
	close(r.end)
	group.Wait()
}
