package recorder

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// storeTimeout bounds each try to store an Event, maxTries the tries.
	storeTimeout = 5 * time.Second
	maxTries     = 3
	// maxNote is the API server's bound for a note, in bytes.
	maxNote  = 1024
	ellipsis = "…"
)

// Shortened cuts a text to what the API server takes as the note of an Event.
func Shortened(note string) string {
	note = strings.ToValidUTF8(note, string(utf8.RuneError))
	if len(note) <= maxNote {
		return note
	}
	end := maxNote - len(ellipsis)
	for !utf8.RuneStart(note[end]) {
		end--
	}
	return note[:end] + ellipsis
}

// storeOrForget stores a series as far as it has come. If that fails, its next
// repetition is stored.
func (r *Recorder) storeOrForget(ctx context.Context, s *series) {
	var err error
	for try := range maxTries {
		if try > 0 && !sleep(ctx, time.Duration(try)*time.Second) {
			return
		}
		if err = r.store(ctx, s); err == nil || !isTransient(err) {
			break
		}
	}
	if err == nil {
		return
	}
	dropped.Inc()
	klog.FromContext(ctx).V(2).Info("Cannot store an event", "error", err, "reason", s.event.Reason, "note", s.event.Note)
	r.mu.Lock()
	defer r.mu.Unlock()
	s.queued = time.Time{}
}

// isTransient tells whether the same event may be stored later. What the API
// server has looked at and refused stays refused.
func isTransient(err error) bool {
	return !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) && !apierrors.IsBadRequest(err)
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (r *Recorder) store(ctx context.Context, s *series) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	event, stored := r.current(s)
	if stored {
		err := r.update(ctx, event)
		if !apierrors.IsNotFound(err) {
			return err
		}
		// It was kept for an hour; the series goes on in another.
	}
	if err := r.client.Create(ctx, event); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating event: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.stored = true
	return nil
}

// current is the event to be stored now, and whether there is an earlier one.
func (r *Recorder) current(s *series) (event *eventsv1.Event, stored bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	event = s.event.DeepCopy()
	if s.count > 1 {
		event.Series = &eventsv1.EventSeries{Count: s.count, LastObservedTime: metav1.NewMicroTime(s.seen)}
	}
	return event, s.stored
}

func (r *Recorder) update(ctx context.Context, event *eventsv1.Event) error {
	patch, err := json.Marshal(map[string]any{"series": event.Series})
	if err != nil {
		return fmt.Errorf("making a patch of an event: %w", err)
	}
	if err := r.client.Patch(ctx, event.DeepCopy(), client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("counting an event: %w", err)
	}
	return nil
}
