package main

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// held is an answer that passes lateWatches, and where it is written.
func held(t *testing.T, l *lateWatches, query string) (io.ReadCloser, *io.PipeWriter) {
	t.Helper()
	from, to := io.Pipe()
	response := &http.Response{Body: from, Request: &http.Request{URL: &url.URL{RawQuery: query}}}
	if err := l.hold(response); err != nil {
		t.Fatal(err)
	}
	return response.Body, to
}

func TestWatchesAreLate(t *testing.T) {
	t.Parallel()
	const late = 200 * time.Millisecond
	l := &lateWatches{}
	l.set(late)
	body, to := held(t, l, "watch=true")
	began := time.Now()
	go func() {
		_, _ = to.Write([]byte("event"))
		_ = to.Close()
	}()
	content, err := io.ReadAll(body)
	if err != nil || string(content) != "event" {
		t.Errorf("read %q, error %v", content, err)
	}
	if took := time.Since(began); took < late {
		t.Errorf("it took %s, want at least %s", took, late)
	}
}

func TestOnlyWatchesAreLate(t *testing.T) {
	t.Parallel()
	l := &lateWatches{}
	l.set(time.Hour)
	body, to := held(t, l, "limit=500")
	go func() {
		_, _ = to.Write([]byte("list"))
		_ = to.Close()
	}()
	if content, err := io.ReadAll(body); err != nil || string(content) != "list" {
		t.Errorf("read %q, error %v", content, err)
	}
}

func TestWatchThatIsLateCanBeEndedAndCatchUp(t *testing.T) {
	t.Parallel()
	l := &lateWatches{}
	l.set(time.Hour)
	body, to := held(t, l, "watch=1")
	go func() { _, _ = to.Write([]byte("event")) }()
	l.set(0)
	buffer := make([]byte, 5)
	if n, err := body.Read(buffer); err != nil || n != 5 {
		t.Errorf("read %d bytes, error %v", n, err)
	}
	l.set(time.Hour)
	go func() { _ = body.Close() }()
	if _, err := body.Read(buffer); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the error is %v", err)
	}
}
