package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// plainServer is a webhook server whose requests have its context as parent, as
// controller-runtime's have, without TLS.
type plainServer struct {
	ctrlwebhook.Server
	mux     *http.ServeMux
	address chan string
}

func (s *plainServer) Register(path string, hook http.Handler) { s.mux.Handle(path, hook) }

func (s *plainServer) StartedChecker() healthz.Checker { return healthz.Ping }

func (s *plainServer) Start(ctx context.Context) error {
	server := httptest.NewUnstartedServer(s.mux)
	server.Config.BaseContext = func(_ net.Listener) context.Context { return ctx }
	server.Start()
	s.address <- server.URL
	<-ctx.Done()
	err := server.Config.Shutdown(context.WithoutCancel(ctx))
	server.Close()
	return err
}

// serve starts a draining server with one hook, and returns its URL, what stops
// it, and what receives when it has stopped.
func serve(t *testing.T, delay time.Duration, hook http.HandlerFunc) (server *drainingServer, url string, stop context.CancelFunc, stopped chan error) {
	t.Helper()
	plain := &plainServer{mux: http.NewServeMux(), address: make(chan string)}
	server = newDrainingServer(plain, delay)
	server.Register("/", hook)
	ctx, stop := context.WithCancel(t.Context())
	stopped = make(chan error, 1)
	go func() { stopped <- server.Start(ctx) }()
	return server, <-plain.address, stop, stopped
}

func get(ctx context.Context, t *testing.T, url string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func TestRequestInFlightOutlivesTheStop(t *testing.T) {
	arrived, proceed, cut := make(chan struct{}), make(chan struct{}), make(chan bool, 1)
	_, url, stop, stopped := serve(t, 0, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-proceed
		cut <- r.Context().Err() != nil
	})
	answered := make(chan error, 1)
	go func() { answered <- get(t.Context(), t, url) }()
	<-arrived
	stop()
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a request in flight: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(proceed)
	if err := <-answered; err != nil {
		t.Errorf("the request failed: %v", err)
	}
	if <-cut {
		t.Error("the request was cut")
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestRequestEndsWithItsClient(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan struct{})
	_, url, stop, stopped := serve(t, 0, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if err := get(ctx, t, url); err == nil {
		t.Error("a request that was given up succeeded")
	}
	<-ended
	stop()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStopAwaitsWhatRequestsLeftToBeDone(t *testing.T) {
	server := newDrainingServer(&plainServer{mux: http.NewServeMux(), address: make(chan string, 1)}, 0)
	waiting, proceed := make(chan struct{}), make(chan struct{})
	server.afterAnswers = func() {
		close(waiting)
		<-proceed
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- server.Start(ctx) }()
	stop()
	<-waiting
	select {
	case err := <-stopped:
		t.Fatalf("stopped with something left to be done: %v", err)
	default:
	}
	close(proceed)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestDrainingServerIsNotReadyButServes(t *testing.T) {
	server, url, stop, _ := serve(t, time.Hour, func(http.ResponseWriter, *http.Request) {})
	if err := server.StartedChecker()(nil); err != nil {
		t.Fatal(err)
	}
	stop()
	for server.StartedChecker()(nil) == nil {
		if t.Context().Err() != nil {
			t.Fatal("still ready")
		}
	}
	if err := get(t.Context(), t, url); err != nil {
		t.Errorf("a request during the drain failed: %v", err)
	}
}
