package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/tests/web/cluster"
)

// patience is far more than any of it takes.
const patience = time.Minute

// following is a Server that sees a change only where it is told of it.
func following(t *testing.T, c client.WithWatch) *Server {
	t.Helper()
	s := serverOn(t, c)
	// Nor by itself, for a second look.
	s.follower.every, s.follower.again, s.follower.lookout.Pause = time.Hour, 0, time.Hour
	go s.follower.run(t.Context())
	return s
}

// until waits for news after which the page says something.
func (s *Server) until(t *testing.T, target, want string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		_, news := s.follower.now()
		text, _ := read(t, s.visit(t, target).Body.String())
		if strings.Contains(text, want) {
			return text
		}
		select {
		case <-news:
		case <-ctx.Done():
			t.Fatalf("%s does not come to say %q: %s", target, want, text)
		}
	}
}

func inMemory(t *testing.T, funcs interceptor.Funcs) client.WithWatch {
	t.Helper()
	c, err := cluster.New(cluster.Full()...)
	if err != nil {
		t.Fatal(err)
	}
	return interceptor.NewClient(c, funcs)
}

func TestChangeIsSeenAtOnce(t *testing.T) {
	c := inMemory(t, interceptor.Funcs{})
	s := following(t, c)
	for _, object := range cluster.Held("default", "md-0-new", "dkp", cluster.InCluster("workers"), "10.16.57.190") {
		if err := c.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	s.until(t, "/pools/InClusterIPPool/default/workers", "10.16.57.190 used VSphereMachine/md-0-new")
}

func TestChangeIsSeenInTimeWithoutAWatch(t *testing.T) {
	c := inMemory(t, interceptor.Funcs{Watch: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) (watch.Interface, error) {
		return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "all"}, "", nil)
	}})
	s := serverOn(t, c)
	s.follower.every = time.Millisecond
	go s.follower.run(t.Context())
	if err := c.Create(t.Context(), cluster.Machine("default", "brand-new", "dkp")); err != nil {
		t.Fatal(err)
	}
	s.until(t, "/find?q=default/", "default/brand-new")
}

func TestLostClusterIsNotShownAsFresh(t *testing.T) {
	var lost atomic.Bool
	c := inMemory(t, interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
		if lost.Load() {
			return errors.New("connection refused")
		}
		return c.List(ctx, list, options...)
	}})
	s := following(t, c)

	lost.Store(true)
	s.follower.tell()
	text := s.until(t, "/pools", "disconnected since")
	if !strings.Contains(text, "connection refused") || !strings.Contains(text, "IPPool/ dkp-cluster") {
		t.Errorf("the page does not say why, or not what was known: %s", text)
	}
	before, news := s.follower.now()
	s.follower.tell()
	await(t, news)
	if now, _ := s.follower.now(); now.lost == nil || !now.since.Equal(before.since) {
		t.Errorf("it is lost since %s, and then since %s", before.since, now.since)
	}

	lost.Store(false)
	s.follower.tell()
	for now, news := s.follower.now(); now.lost != nil; now, news = s.follower.now() {
		await(t, news)
	}
}

func await(t *testing.T, news <-chan struct{}) {
	t.Helper()
	select {
	case <-news:
	case <-time.After(patience):
		t.Fatal("there is no news")
	}
}

func TestClusterThatMayNotBeReadIsAnError(t *testing.T) {
	c := inMemory(t, interceptor.Funcs{List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "all"}, "", nil)
	}})
	if _, err := NewServer(t.Context(), Options{Source: cluster.Source(c), Client: c}); !apierrors.IsForbidden(err) {
		t.Errorf("got %v, want that it is forbidden", err)
	}
}

func TestWatchThatEndsBeginsAgain(t *testing.T) {
	var begun atomic.Int32
	first := make(chan watch.Interface, 1)
	c := inMemory(t, interceptor.Funcs{Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
		w, err := c.Watch(ctx, list, options...)
		if _, is := list.(*capi.VSphereMachineList); is && begun.Add(1) == 1 {
			first <- w
		}
		return w, err
	}})
	s := following(t, c)
	select {
	case w := <-first:
		w.Stop()
	case <-time.After(patience):
		t.Fatal("nothing is watched")
	}
	for _, news := s.follower.now(); begun.Load() < 2; _, news = s.follower.now() {
		await(t, news)
	}
}

func TestEachKindIsWatchedOnce(t *testing.T) {
	var begun atomic.Int32
	c := inMemory(t, interceptor.Funcs{Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
		if _, is := list.(*capi.VSphereMachineList); is {
			begun.Add(1)
		}
		return c.Watch(ctx, list, options...)
	}})
	s := serverOn(t, c)
	for range 3 {
		if err := s.follower.read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := begun.Load(); got != 1 {
		t.Errorf("VSphereMachines are watched %d times", got)
	}
}

func TestBrowserIsToldOfNews(t *testing.T) {
	s := serverOf(t, cluster.Full()...)
	server := httptest.NewServer(s.routes())
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	if !lines.Scan() || lines.Text() != ": connected" || !lines.Scan() {
		t.Fatalf("the stream begins with %q (%v)", lines.Text(), lines.Err())
	}
	s.follower.update(func(*state) {})
	if !lines.Scan() || lines.Text() != "data: changed" {
		t.Errorf("news are told as %q (%v)", lines.Text(), lines.Err())
	}
}

func TestServerIsOnTheLoopbackInterfaceAlone(t *testing.T) {
	s := serverOf(t)
	if !strings.HasPrefix(s.listen.Addr().String(), "127.0.0.1:") {
		t.Errorf("it listens on %s", s.listen.Addr())
	}
	if !strings.HasPrefix(s.URL(), "http://127.0.0.1:") || !strings.HasSuffix(s.URL(), "/?key="+s.guard.key) {
		t.Errorf("it is opened by %s", s.URL())
	}
}

func TestConnectionThatNobodyUsesIsClosed(t *testing.T) {
	s := serverOf(t)
	s.idle = time.Millisecond
	go func() { _ = s.Serve(t.Context()) }()
	var dialer net.Dialer
	connection, err := dialer.DialContext(t.Context(), "tcp", s.listen.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(connection, "GET /pools HTTP/1.1\r\nHost: %s\r\n\r\n", s.listen.Addr()); err != nil {
		t.Fatal(err)
	}
	// It answers, and then ends what nobody asks on.
	if answer, err := io.ReadAll(connection); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 401") {
		t.Errorf("it answers %q (%v)", answer, err)
	}
}

func TestServerEndsWithItsContext(t *testing.T) {
	s := serverOf(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}
