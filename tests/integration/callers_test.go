package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/webhook"
)

// apiServerName is whom the API server's client certificate is for.
const apiServerName = "kube-apiserver-of-the-test"

func TestWebhookThatAsksForACertificateServesTheAPIServerOnly(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutInCluster: true, WebhookClient: apiServerName}, 0)
	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{
		OrphanGracePeriod: gracePeriod,
		Args:              []string{"--webhook-client-ca-file=" + env.WebhookClientCA(), "--webhook-client-name=" + apiServerName},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t, env)
	s.create(harness.Pool(s.ns))

	strangers := map[string]struct {
		certificate tls.Certificate
		status      int
		says        string
	}{
		"no certificate":                          {status: http.StatusUnauthorized, says: "clients with a certificate only"},
		"a certificate of another authority":      {s.certificateOf(env.Identity()), http.StatusUnauthorized, "unknown authority"},
		"a certificate of the authority's others": {s.otherClient(), http.StatusForbidden, "--webhook-client-name"},
	}
	for name, stranger := range strangers {
		if status, text := s.postAs(manager, stranger.certificate); status != stranger.status || !strings.Contains(text, stranger.says) {
			t.Errorf("with %s got status %d and %q, want %d and %q", name, status, text, stranger.status, stranger.says)
		}
	}
	if claims := s.claims(); len(claims) > 0 {
		t.Errorf("a stranger made claim %s", claims[0].GetName())
	}
	s.create(s.pooled("cp-0"))
	s.settled("cp-0")

	// An authority that is replaced counts at once, also on the API server's
	// old connection.
	authority, err := os.ReadFile(env.WebhookClientCA())
	if err != nil {
		t.Fatal(err)
	}
	s.writeAuthority(env.Certificates.CABundle)
	s.refused(s.pooled("cp-1"), "asked for the client to provide credentials")
	s.writeAuthority(authority)
	s.create(s.pooled("cp-1"))

	log, err := os.ReadFile(manager.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte("TLS handshake error")) {
		t.Error("asking whether the replica is ready shows in its log as a handshake that failed")
	}
}

func (s *scene) writeAuthority(content []byte) {
	s.Helper()
	if err := os.WriteFile(s.env.WebhookClientCA(), content, 0o600); err != nil {
		s.Fatal(err)
	}
}

// certificateOf is by what credentials prove who they are to the API server.
func (s *scene) certificateOf(who harness.Credentials) tls.Certificate {
	s.Helper()
	pair, err := tls.X509KeyPair(who.Config.CertData, who.Config.KeyData)
	if err != nil {
		s.Fatal(err)
	}
	return pair
}

func (s *scene) otherClient() tls.Certificate {
	s.Helper()
	pair, err := s.env.WebhookClient("somebody-else")
	if err != nil {
		s.Fatal(err)
	}
	return pair
}

// postAs posts the review of a machine that asks for an address, as a client with
// this certificate, none if it is empty.
func (s *scene) postAs(manager *harness.Manager, certificate tls.Certificate) (status int, text string) {
	s.Helper()
	review := &admissionv1.AdmissionReview{Request: s.creation("stranger", s.manifest(s.pooled("stranger")))}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	body, err := json.Marshal(review)
	if err != nil {
		s.Fatal(err)
	}
	request, err := http.NewRequestWithContext(s.Context(), http.MethodPost,
		"https://"+manager.WebhookAddress+webhook.Path+"?timeout=10s", bytes.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	trust := s.trust()
	if len(certificate.Certificate) > 0 {
		// Shown whatever the server asks for, as the API server does.
		trust.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true}}).Do(request)
	if err != nil {
		s.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	return response.StatusCode, string(content)
}
