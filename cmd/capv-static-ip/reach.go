package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

const (
	// probePeriod is the time between two questions to the API server, and
	// probeTimeout that for an answer.
	probePeriod  = 1500 * time.Millisecond
	probeTimeout = 2 * time.Second
	// reachAge is how old the last answer may be: a replica that is cut off has
	// to say so within 10 s, of which the kubelet takes up to three to ask.
	reachAge = 6 * time.Second
)

// reach knows whether this replica reaches the API server. One that does not can
// admit nothing, but keeps requests waiting that another replica would serve. It
// asks by the connections that admission uses, and past all rate limits: that
// this replica is busy is no reason to send its requests elsewhere.
type reach struct {
	ask func(context.Context) error
	now func() time.Time
	// answered is when the API server last answered.
	answered atomic.Pointer[time.Time]
}

func newReach(mgr manager.Manager) (*reach, error) {
	config := rest.CopyConfig(mgr.GetConfig())
	config.QPS, config.RateLimiter = -1, nil
	config.NegotiatedSerializer = serializer.NewCodecFactory(mgr.GetScheme()).WithoutConversion()
	c, err := rest.UnversionedRESTClientForConfigAndClient(config, mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("making the client that asks if the API server answers: %w", err)
	}
	return &reach{now: time.Now, ask: func(ctx context.Context) error {
		var code int
		err := c.Get().AbsPath("/version").MaxRetries(0).Do(ctx).StatusCode(&code).Error()
		if code > 0 && code < http.StatusInternalServerError {
			// Refused is answered, too.
			return nil
		}
		return err
	}}, nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (r *reach) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable. It asks until the context ends.
func (r *reach) Start(ctx context.Context) error {
	ticker := time.NewTicker(probePeriod)
	defer ticker.Stop()
	failing := false
	for {
		err := r.once(ctx)
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			klog.FromContext(ctx).Error(err, "Cannot reach the API server")
		case err == nil && failing:
			klog.FromContext(ctx).Info("Reached the API server again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (r *reach) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := r.ask(ctx); err != nil {
		return err
	}
	now := r.now()
	r.answered.Store(&now)
	return nil
}

// check returns an error while the API server cannot be reached.
func (r *reach) check() error {
	answered := r.answered.Load()
	if answered == nil {
		return errors.New("the API server has not answered yet")
	}
	if age := r.now().Sub(*answered); age > reachAge {
		return fmt.Errorf("the API server has not answered for %s", age.Round(time.Second))
	}
	return nil
}
