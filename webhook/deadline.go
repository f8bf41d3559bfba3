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
	// margin is kept for taking claims back and for the answer's way home. The
	// API server counts its own dial and handshake in the timeout as well.
	margin = 1500 * time.Millisecond
)

type timeoutKey struct{}

// withTimeout keeps the time that the API server grants this call: the query
// parameter "timeout" of the request URL, in whole seconds rounded up
// (k8s.io/apiserver, pkg/admission/plugin/webhook/mutating/dispatcher.go).
func withTimeout(ctx context.Context, r *http.Request) context.Context {
	timeout, err := time.ParseDuration(r.URL.Query().Get("timeout"))
	if err != nil {
		timeout = defaultTimeout
	}
	return context.WithValue(ctx, timeoutKey{}, timeout)
}

func timeoutOf(ctx context.Context) time.Duration {
	if timeout, ok := ctx.Value(timeoutKey{}).(time.Duration); ok {
		return timeout
	}
	return defaultTimeout
}
