package limit

import (
	"time"

	"k8s.io/client-go/util/workqueue"
)

const (
	// firstRetry is when what failed once is tried again.
	firstRetry = 5 * time.Millisecond
	// LastRetry is how long what has failed often waits for the next try. By the
	// measure of controller-runtime it is up to 1000 s, for which an address would be
	// missing, or a replica not ready, after the cause is gone.
	LastRetry = 10 * time.Second
)

// Failures has a controller try again what failed, ever more rarely.
func Failures[T comparable]() workqueue.TypedRateLimiter[T] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[T](firstRetry, LastRetry)
}
