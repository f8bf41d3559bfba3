package main

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// drainingServer is a webhook server that, when told to stop, is no longer
// ready but serves on for a while: until the endpoints of the Service have
// changed everywhere, the API server sends requests here.
type drainingServer struct {
	ctrlwebhook.Server
	delay time.Duration
	// afterAnswers waits for what requests have left to be done after their answers.
	afterAnswers func()
	// draining: no longer ready. stopping: no longer accepting connections.
	draining, stopping atomic.Bool
}

func newDrainingServer(server ctrlwebhook.Server, delay time.Duration) *drainingServer {
	return &drainingServer{Server: server, delay: delay}
}

// Start implements manager.Runnable.
func (s *drainingServer) Start(ctx context.Context) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	context.AfterFunc(ctx, func() {
		s.draining.Store(true)
		time.AfterFunc(s.delay, func() {
			s.stopping.Store(true)
			stop()
		})
	})
	err := s.Server.Start(serving)
	if s.afterAnswers != nil {
		s.afterAnswers()
	}
	return err
}

// Register implements webhook.Server. The server's context is the parent of
// every request's: without this, its end would cut the requests in flight that
// its graceful shutdown waits for.
func (s *drainingServer) Register(path string, hook http.Handler) {
	s.Server.Register(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
		defer cancel()
		stop := context.AfterFunc(r.Context(), func() {
			if !s.stopping.Load() {
				cancel()
			}
		})
		defer stop()
		hook.ServeHTTP(w, r.WithContext(ctx))
	}))
}

// StartedChecker implements webhook.Server.
func (s *drainingServer) StartedChecker() healthz.Checker {
	started := s.Server.StartedChecker()
	return func(r *http.Request) error {
		if s.draining.Load() {
			return errors.New("draining")
		}
		return started(r)
	}
}

// lastingCache makes caches that run until their own context ends. The manager
// stops its cache before its webhook server; a request that waits for a claim
// then would never hear of it.
func lastingCache(lifetime context.Context) cache.NewCacheFunc {
	return func(config *rest.Config, opts cache.Options) (cache.Cache, error) {
		c, err := cache.New(config, opts)
		if err != nil {
			return nil, err
		}
		return &lasting{Cache: c, lifetime: lifetime}, nil
	}
}

type lasting struct {
	cache.Cache
	lifetime context.Context
}

// Start implements manager.Runnable.
func (l *lasting) Start(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- l.Cache.Start(l.lifetime) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}
