package webhook

import (
	"context"
	"net/http"
	"time"
)

const (
	// defaultTimeout is what the API server grants a webhook that sets none.
	defaultTimeout = 10 * time.Second
	// minTimeout is the least time in which it makes sense to start claiming.
	minTimeout = 3 * time.Second
	// answerMargin is kept for taking claims back and for the answer's way home.
	answerMargin = 1500 * time.Millisecond
	// wayHome is kept for the answer's way home alone. The API server counts its
	// own dial and handshake in the timeout as well.
	wayHome = 700 * time.Millisecond
)

// grant is what the API server grants a call, and when it began here.
type grant struct {
	timeout time.Duration
	since   time.Time
}

type grantKey struct{}

// withTimeout keeps the time that the API server grants this call: the query
// parameter "timeout" of the request URL, in whole seconds rounded up
// (k8s.io/apiserver, pkg/admission/plugin/webhook/mutating/dispatcher.go).
func withTimeout(ctx context.Context, r *http.Request) context.Context {
	timeout, err := time.ParseDuration(r.URL.Query().Get("timeout"))
	if err != nil {
		timeout = defaultTimeout
	}
	return context.WithValue(ctx, grantKey{}, grant{timeout: timeout, since: time.Now()})
}

func grantOf(ctx context.Context) grant {
	if granted, ok := ctx.Value(grantKey{}).(grant); ok {
		return granted
	}
	return grant{timeout: defaultTimeout, since: time.Now()}
}

// end is when the API server stops listening.
func (g grant) end() time.Time { return g.since.Add(g.timeout) }

// answerTimeOf is when a call has to be answered, whatever is still to be done: an
// answer that comes later is not heard, and the user reads of a timeout instead.
func answerTimeOf(ctx context.Context) time.Time {
	return grantOf(ctx).end().Add(-wayHome)
}
