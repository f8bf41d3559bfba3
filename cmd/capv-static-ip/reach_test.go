package main

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestReachLastsForAWhile(t *testing.T) {
	now, failure := time.Now(), error(nil)
	r := &reach{now: func() time.Time { return now }, ask: func(context.Context) error { return failure }}
	if r.check() == nil {
		t.Error("the API server counts as reached before it has answered")
	}
	if err := r.once(t.Context()); err != nil || r.check() != nil {
		t.Errorf("after an answer: %v, %v", err, r.check())
	}
	failure = errors.New("cut off")
	now = now.Add(reachAge)
	if err := r.once(t.Context()); !errors.Is(err, failure) || r.check() != nil {
		t.Errorf("soon after an answer: %v, %v", err, r.check())
	}
	now = now.Add(time.Millisecond)
	if r.check() == nil {
		t.Error("the API server counts as reached long after its last answer")
	}
	failure = nil
	if err := r.once(t.Context()); err != nil || r.check() != nil {
		t.Errorf("after another answer: %v, %v", err, r.check())
	}
}
