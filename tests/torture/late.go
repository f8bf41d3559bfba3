package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"capv-static-ip.dev/tests/harness"
)

// lateWatches stands between a replica and the API server, and can make what the replica
// watches arrive late, while its other requests are answered at once. It acts as the
// replica, whoever asks.
type lateWatches struct {
	address string
	delay   atomic.Int64
}

// newLateWatches starts one. It ends with the context.
func newLateWatches(ctx context.Context, plane *harness.ControlPlane, identity harness.Credentials, name string) (*lateWatches, error) {
	target, err := url.Parse(identity.Config.Host)
	if err != nil {
		return nil, err
	}
	config := rest.CopyConfig(identity.Config)
	// Each of them has connections of its own.
	config.Dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("reaching the API server for %s: %w", name, err)
	}
	certPath, keyPath, err := plane.ServingFiles(name)
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		return nil, err
	}
	address, err := plane.Address()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	l := &lateWatches{address: address}
	proxy := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: l.hold,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	server := &http.Server{
		Handler: proxy, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return l, nil
}

// set says by how much watches are late from now on.
func (l *lateWatches) set(d time.Duration) { l.delay.Store(int64(d)) }

// hold makes the answer to a watch one that can be late.
func (l *lateWatches) hold(response *http.Response) error {
	if response.Request.URL.Query().Get("watch") == "" {
		return nil
	}
	body := &lateBody{from: response.Body, by: &l.delay, chunks: make(chan chunk, 1024), done: make(chan struct{})}
	go body.read()
	response.Body = body
	return nil
}

// chunk is a part of an answer, and when it came.
type chunk struct {
	content []byte
	at      time.Time
	err     error
}

// lateBody passes an answer on in its order, each part as late as is said when it is due.
type lateBody struct {
	from   io.ReadCloser
	by     *atomic.Int64
	chunks chan chunk
	rest   []byte
	failed error
	done   chan struct{}
}

func (b *lateBody) read() {
	for {
		buffer := make([]byte, 32<<10)
		n, err := b.from.Read(buffer)
		select {
		case b.chunks <- chunk{buffer[:n], time.Now(), err}:
		case <-b.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader.
func (b *lateBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if b.failed != nil {
			return 0, b.failed
		}
		select {
		case <-b.done:
			return 0, io.ErrClosedPipe
		case next := <-b.chunks:
			if !b.due(next.at) {
				return 0, io.ErrClosedPipe
			}
			b.rest, b.failed = next.content, next.err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// due waits until what came at a time is to be passed on.
func (b *lateBody) due(at time.Time) bool {
	for {
		left := time.Until(at.Add(time.Duration(b.by.Load())))
		if left <= 0 {
			return true
		}
		select {
		case <-b.done:
			return false
		case <-time.After(min(left, 50*time.Millisecond)):
		}
	}
}

// Close implements io.Closer.
func (b *lateBody) Close() error {
	close(b.done)
	return b.from.Close()
}
