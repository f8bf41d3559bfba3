package lifecycle

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sharedReads has those who want to read the same at the same time share a read. While many
// machines go at once, each of them would list all VSphereVMs of the namespace. A read is
// shared only by those who asked before it began: what they have read before stays before.
type sharedReads struct {
	mu         sync.Mutex
	namespaces map[string]*readsOfOne
}

// readsOfOne are the reads of one namespace.
type readsOfOne struct {
	// turn has who reads.
	turn sync.Mutex
	// next is the read that has not begun.
	next *sharedRead
}

type sharedRead struct {
	done chan struct{}
	vms  []metav1.PartialObjectMetadata
	err  error
}

// read reads what is in a namespace, or waits for one who does. What it returns is read by
// others, too.
func (s *sharedReads) read(ctx context.Context, namespace string, read func() ([]metav1.PartialObjectMetadata, error)) ([]metav1.PartialObjectMetadata, error) {
	of, mine, leads := s.join(namespace)
	if !leads {
		select {
		case <-mine.done:
			return mine.vms, mine.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	of.turn.Lock()
	s.begin(of)
	mine.vms, mine.err = read()
	of.turn.Unlock()
	close(mine.done)
	s.forget(namespace, of)
	return mine.vms, mine.err
}

// join takes part in the next read, and tells whether to lead it.
func (s *sharedReads) join(namespace string) (of *readsOfOne, mine *sharedRead, leads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.namespaces == nil {
		s.namespaces = map[string]*readsOfOne{}
	}
	if s.namespaces[namespace] == nil {
		s.namespaces[namespace] = &readsOfOne{}
	}
	of = s.namespaces[namespace]
	if leads = of.next == nil; leads {
		of.next = &sharedRead{done: make(chan struct{})}
	}
	return of, of.next, leads
}

// begin closes the read to those who come later.
func (s *sharedReads) begin(of *readsOfOne) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of.next = nil
}

// forget forgets a namespace in which nobody waits for a read.
func (s *sharedReads) forget(namespace string, of *readsOfOne) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of.next == nil && s.namespaces[namespace] == of {
		delete(s.namespaces, namespace)
	}
}
