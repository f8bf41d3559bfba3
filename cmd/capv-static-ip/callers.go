package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// callers knows who may call the webhook: clients with a certificate of an
// authority, for one of these names if there are any.
type callers struct {
	// caFile holds the authority, in PEM. It is read for each call: an authority
	// that was replaced counts from the next one on, on old connections, too.
	caFile string
	names  []string
}

var (
	errNoCertificate = errors.New("this webhook serves clients with a certificate only: " +
		"configure one for it in the API server's AdmissionConfiguration")
	errOtherName = errors.New("the client certificate is for somebody who may not call this webhook: " +
		"see --webhook-client-name of capv-static-ip")
)

// newCallers checks that the authority can be read before anything is served.
func newCallers(caFile string, names []string) (*callers, error) {
	c := &callers{caFile: caFile, names: names}
	_, err := c.authority()
	return c, err
}

func (c *callers) authority() (*x509.CertPool, error) {
	content, err := os.ReadFile(c.caFile)
	if err != nil {
		return nil, fmt.Errorf("reading the authority of the webhook's clients: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("reading the authority of the webhook's clients: no certificate is in %s", c.caFile)
	}
	return pool, nil
}

// judge returns an error unless the client at the other end may call. The
// connection proves that it has the key of the first certificate.
func (c *callers) judge(connection *tls.ConnectionState) (status int, err error) {
	if connection == nil || len(connection.PeerCertificates) == 0 {
		return http.StatusUnauthorized, errNoCertificate
	}
	roots, err := c.authority()
	if err != nil {
		return http.StatusInternalServerError, err
	}
	intermediates := x509.NewCertPool()
	for _, cert := range connection.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	client := connection.PeerCertificates[0]
	_, err = client.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	switch {
	case err != nil:
		return http.StatusUnauthorized, fmt.Errorf("verifying the client certificate: %w", err)
	case len(c.names) > 0 && !c.isNamed(client):
		return http.StatusForbidden, errOtherName
	}
	return http.StatusOK, nil
}

func (c *callers) isNamed(client *x509.Certificate) bool {
	return slices.ContainsFunc(append([]string{client.Subject.CommonName}, client.DNSNames...), func(name string) bool {
		return slices.Contains(c.names, name)
	})
}

// guardedServer is a webhook server that serves nobody but its callers. Like the
// API server itself it asks for a certificate in the handshake, and judges it for
// each request: a refusal says why, and connections that only look whether the
// port is open, as the readiness check does, are no failed handshakes.
type guardedServer struct {
	ctrlwebhook.Server
	callers *callers
}

// Register implements webhook.Server. A refused request is not read.
func (s *guardedServer) Register(path string, hook http.Handler) {
	s.Server.Register(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status, err := s.callers.judge(r.TLS); err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		hook.ServeHTTP(w, r)
	}))
}

// newWebhookServer makes a server for everybody or, with an authority, for its
// clients.
func newWebhookServer(opts *options, tlsOptions []func(*tls.Config)) (ctrlwebhook.Server, error) {
	serverOptions := ctrlwebhook.Options{
		Host: opts.webhookHost, Port: opts.webhookPort, CertDir: opts.webhookCertDir, TLSOpts: tlsOptions,
	}
	if opts.webhookClientCAFile == "" {
		return ctrlwebhook.NewServer(serverOptions), nil
	}
	callers, err := newCallers(opts.webhookClientCAFile, opts.webhookClientNames)
	if err != nil {
		return nil, err
	}
	serverOptions.TLSOpts = append(slices.Clone(tlsOptions), func(config *tls.Config) {
		config.ClientAuth = tls.RequestClientCert
	})
	return &guardedServer{Server: ctrlwebhook.NewServer(serverOptions), callers: callers}, nil
}
