package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"capv-static-ip.dev/tests/stack"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// rewatchInterval is how soon a watch that broke is tried again.
	rewatchInterval = 100 * time.Millisecond
	// vmInterval is how often the vCenter is asked. It has noted the time itself.
	vmInterval = 250 * time.Millisecond
)

// recorder writes all changes of objects and VMs into a history. Objects are watched in
// etcd, since that has every state in one order, and loses none while the API server is
// down.
type recorder struct {
	etcd string
	to   *history.Writer

	mu sync.Mutex
	// revision is up to where all changes are written, and grown is closed when it changes.
	revision int64
	grown    chan struct{}
	problem  error
}

func newRecorder(etcd string, to *history.Writer) *recorder {
	return &recorder{etcd: etcd, to: to, grown: make(chan struct{})}
}

// number is a number as etcd writes it in JSON.
type number int64

// UnmarshalJSON reads it from a string.
func (n *number) UnmarshalJSON(text []byte) error {
	value, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	*n = number(value)
	return err
}

// entry is a key of etcd with its value.
type entry struct {
	Key      []byte `json:"key"`
	Value    []byte `json:"value"`
	Revision number `json:"mod_revision"`
}

// answer is what etcd says on a watch.
type answer struct {
	Result struct {
		Header struct {
			Revision number `json:"revision"`
		} `json:"header"`
		Canceled        bool   `json:"canceled"`
		CancelReason    string `json:"cancel_reason"`
		CompactRevision number `json:"compact_revision"`
		Events          []struct {
			Type     string `json:"type"`
			Entry    entry  `json:"kv"`
			Previous *entry `json:"prev_kv"`
		} `json:"events"`
	} `json:"result"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// follow writes changes of objects until the context ends.
func (r *recorder) follow(ctx context.Context) {
	for ctx.Err() == nil {
		// A watch breaks when etcd is killed. The next one goes on after what was seen last.
		_ = r.watch(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(rewatchInterval):
		}
	}
}

func (r *recorder) watch(ctx context.Context) error {
	r.mu.Lock()
	from := r.revision + 1
	r.mu.Unlock()
	body, err := json.Marshal(map[string]any{"create_request": map[string]any{
		"key":            base64.StdEncoding.EncodeToString([]byte("/registry/")),
		"range_end":      base64.StdEncoding.EncodeToString([]byte("/registry0")),
		"start_revision": strconv.FormatInt(from, 10), "prev_kv": true,
	}})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.etcd+"/v3/watch", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var a answer
		if err := decoder.Decode(&a); err != nil {
			return err
		}
		if err := r.take(a); err != nil {
			return err
		}
	}
}

// take writes what etcd said.
func (r *recorder) take(a answer) error {
	at := time.Now()
	if a.Error != nil {
		return fmt.Errorf("watching etcd: %s", a.Error.Message)
	}
	if a.Result.Canceled {
		return r.canceled(a)
	}
	for _, event := range a.Result.Events {
		kept, gone := event.Entry, event.Type == "DELETE"
		if gone && event.Previous != nil {
			kept.Value = event.Previous.Value
		}
		if err := r.write(kept, gone, at); err != nil {
			r.fail(err)
		}
		r.seen(int64(event.Entry.Revision))
	}
	return nil
}

// canceled goes on where etcd can. Leases change all the time, so no change is left out
// unless nothing could be read for minutes.
func (r *recorder) canceled(a answer) error {
	if compacted := int64(a.Result.CompactRevision); compacted > 0 {
		r.fail(fmt.Errorf("changes up to revision %d could not be read any more", compacted))
		r.seen(compacted - 1)
	}
	return fmt.Errorf("the watch was canceled: %s", a.Result.CancelReason)
}

func (r *recorder) write(e entry, gone bool, at time.Time) error {
	if !slices.ContainsFunc(history.Prefixes(), func(prefix string) bool { return bytes.HasPrefix(e.Key, []byte(prefix)) }) {
		return nil
	}
	object, err := history.Reduce(string(e.Key), e.Value, int64(e.Revision))
	if err != nil || object == nil {
		return err
	}
	object.Gone = gone
	r.to.Write(history.Record{Time: at, Object: object})
	return nil
}

func (r *recorder) seen(revision int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revision = max(r.revision, revision)
	close(r.grown)
	r.grown = make(chan struct{})
}

// fail notes what makes the history useless.
func (r *recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.problem == nil {
		r.problem = err
	}
}

// err is what made the history useless.
func (r *recorder) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

// await waits until all changes up to a revision are written.
func (r *recorder) await(ctx context.Context, revision int64) error {
	for {
		r.mu.Lock()
		done, grown := r.revision >= revision, r.grown
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		}
	}
}

// followVMs writes what happens in the vCenter until the context ends, and then once more.
func (r *recorder) followVMs(ctx context.Context, vcenter *stack.VCenter) {
	seen := 0
	ticker := time.NewTicker(vmInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			if _, err := r.takeVMs(context.WithoutCancel(ctx), vcenter, seen); err != nil {
				r.fail(err)
			}
			return
		case <-ticker.C:
			if last, err := r.takeVMs(ctx, vcenter, seen); err == nil {
				seen = last
			}
		}
	}
}

// takeVMs writes what happened after an event, and returns the last one.
func (r *recorder) takeVMs(ctx context.Context, vcenter *stack.VCenter, seen int) (int, error) {
	events, err := vcenter.Events(ctx, seen)
	if err != nil {
		return seen, err
	}
	for _, event := range events {
		seen = event.Sequence
		vm := history.VM{Sequence: event.Sequence, ID: event.ID, Name: event.Name}
		switch event.Kind {
		case stack.VMConfigured:
			vm.Kind = history.Configured
		case stack.VMDestroyed:
			vm.Kind = history.Destroyed
		default:
			continue
		}
		for _, address := range event.Addresses {
			ip, _, _ := strings.Cut(address, "/")
			vm.Addresses = append(vm.Addresses, ip)
		}
		r.to.Write(history.Record{Time: event.Time, VM: &vm})
	}
	return seen, nil
}
