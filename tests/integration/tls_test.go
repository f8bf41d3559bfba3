package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/webhook"
)

// renewals is how often the certificate is replaced under load.
const renewals = 4

func certificateIsReplacedUnderLoad(s *scene) {
	s.create(harness.Pool(s.ns, harness.PoolRange("10.20.0.1", "10.20.255.254")))
	ctx, stop := context.WithCancel(s.Context())
	defer stop()
	load, loadCtx := errgroup.WithContext(s.Context())
	var created, handshakes atomic.Int32
	load.Go(func() error {
		for ; ctx.Err() == nil; created.Add(1) {
			if err := s.env.Client.Create(loadCtx, s.pooled(fmt.Sprintf("md-%d", created.Load()))); err != nil {
				return fmt.Errorf("creating machine %d: %w", created.Load(), err)
			}
		}
		return nil
	})
	load.Go(func() error {
		// The API server keeps its connection; here each request has its own.
		for ; ctx.Err() == nil; handshakes.Add(1) {
			manager := s.env.managers[int(handshakes.Load())%len(s.env.managers)]
			if _, err := s.send(loadCtx, manager, "10s", []byte(malformed)); err != nil {
				return fmt.Errorf("handshake %d: %w", handshakes.Load(), err)
			}
		}
		return nil
	})

	for range renewals {
		goal := [2]int32{created.Load() + 3, handshakes.Load() + 3}
		if err := s.env.Certificates.Renew(); err != nil {
			s.Fatal(err)
		}
		for _, manager := range s.env.managers {
			s.eventually(manager.Name+" to serve the new certificate", func(context.Context) error { return s.servesCurrent(manager) })
		}
		s.eventually("the load to go on", func(context.Context) error {
			if loadCtx.Err() == nil && (created.Load() < goal[0] || handshakes.Load() < goal[1]) {
				return fmt.Errorf("%d machines and %d handshakes, want %v", created.Load(), handshakes.Load(), goal)
			}
			return nil
		})
	}
	stop()
	if err := load.Wait(); err != nil {
		s.Error(err)
	}
	s.Logf("%d machines and %d handshakes during %d renewals", created.Load(), handshakes.Load(), renewals)
	// The API server trusts the new one as well.
	for _, manager := range s.env.managers {
		s.env.Forwarder.Cut(manager.WebhookAddress)
	}
	s.eventually("a machine to be admitted over a new connection", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, s.pooled("last"), client.DryRunAll)
	})
}

// servesCurrent returns an error unless the replica presents the certificate
// that was issued last.
func (s *scene) servesCurrent(manager *harness.Manager) error {
	conn, err := tls.Dial("tcp", manager.WebhookAddress, s.trust())
	if err != nil {
		return err
	}
	defer conn.Close()
	if served := conn.ConnectionState().PeerCertificates[0]; !served.Equal(s.env.Certificates.Current()) {
		return fmt.Errorf("it serves certificate %d", served.SerialNumber)
	}
	return nil
}

func (s *scene) trust() *tls.Config {
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(s.env.Certificates.CABundle)
	return &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}
}

// send posts what may not be a review at all straight to a replica, over a
// connection of its own, and returns what was answered, if that is a review.
func (s *scene) send(ctx context.Context, manager *harness.Manager, timeout string, body []byte) (*admissionv1.AdmissionResponse, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"https://"+manager.WebhookAddress+webhook.Path+"?timeout="+timeout, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: s.trust(), DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport, Timeout: harness.Soon}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	review := &admissionv1.AdmissionReview{}
	if err := json.Unmarshal(content, review); err != nil || review.Response == nil {
		return nil, errors.Join(fmt.Errorf("got %s and %q, want an AdmissionReview with a response", response.Status, content), err)
	}
	return review.Response, nil
}

const malformed = `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`

// reviewOf is an AdmissionReview with these fields of a request in JSON.
func reviewOf(request string) string {
	return `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"a-request","namespace":"default","name":"cp-0",` +
		`"kind":{"group":"infrastructure.cluster.x-k8s.io","version":"v1beta2","kind":"VSphereMachine"},` +
		`"resource":{"group":"infrastructure.cluster.x-k8s.io","version":"v1beta2","resource":"vspheremachines"}` + request + `}}`
}

func TestMalformedReviewsAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	manager := shared.managers[0]
	pid := manager.PID()
	for name, test := range map[string]struct{ body, reason string }{
		"no body":                  {"", "empty"},
		"not JSON":                 {"this is no JSON", "json"},
		"cut short":                {reviewOf(`,"operation":"CREATE"`)[:100], "unexpected end"},
		"a list":                   {"[]", "cannot unmarshal"},
		"null":                     {"null", `operation ""`},
		"not text":                 {"\xff\xfe\x00", "UTF-16"},
		"another kind":             {`{"kind":"Pod","apiVersion":"v1"}`, `operation ""`},
		"an unknown version":       {strings.Replace(reviewOf(""), "k8s.io/v1", "k8s.io/v9", 1), `operation ""`},
		"no request":               {malformed, "operation"},
		"an empty request":         {`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{}}`, "operation"},
		"a request that is a text": {`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":"x"}`, "cannot unmarshal"},
		"no operation":             {reviewOf(``), `operation ""`},
		"an empty operation":       {reviewOf(`,"operation":""`), `operation ""`},
		"operation DELETE":         {reviewOf(`,"operation":"DELETE"`), `operation "DELETE"`},
		"operation CONNECT":        {reviewOf(`,"operation":"CONNECT"`), `operation "CONNECT"`},
		"no object":                {reviewOf(`,"operation":"CREATE"`), "holds no VSphereMachine"},
		"object null":              {reviewOf(`,"operation":"CREATE","object":null`), "holds no VSphereMachine"},
		"object a text":            {reviewOf(`,"operation":"CREATE","object":"x"`), "reading the VSphereMachine"},
		"object a list":            {reviewOf(`,"operation":"CREATE","object":[]`), "reading the VSphereMachine"},
		"metadata a list":          {reviewOf(`,"operation":"CREATE","object":{"metadata":[]}`), "reading the VSphereMachine"},
		"devices an object":        {reviewOf(`,"operation":"CREATE","object":{"spec":{"network":{"devices":{}}}}`), "reading the VSphereMachine"},
		"a device that is a text":  {reviewOf(`,"operation":"CREATE","object":{"spec":{"network":{"devices":["x"]}}}`), "reading the VSphereMachine"},
		"addresses a number":       {reviewOf(`,"operation":"CREATE","object":{"spec":{"network":{"devices":[{"ipAddrs":7}]}}}`), "reading the VSphereMachine"},
		"update without objects":   {reviewOf(`,"operation":"UPDATE"`), "holds no VSphereMachine"},
		"update of nothing":        {reviewOf(`,"operation":"UPDATE","object":{}`), "holds no VSphereMachine"},
		"update to nothing":        {reviewOf(`,"operation":"UPDATE","oldObject":{}`), "holds no VSphereMachine"},
		"update to a list":         {reviewOf(`,"operation":"UPDATE","oldObject":{},"object":[]`), "reading the VSphereMachine"},
		"more than fits":           {reviewOf(`,"operation":"CREATE","object":"` + strings.Repeat("x", 600<<10) + `"`), "larger than"},
	} {
		response, err := s.send(t.Context(), manager, "10s", []byte(test.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if response.Allowed || response.Result == nil {
			t.Errorf("%s: got %+v, want it refused with a reason", name, response)
			continue
		}
		if !strings.Contains(response.Result.Message, test.reason) {
			t.Errorf("%s: refused with %q, want %q in it", name, response.Result.Message, test.reason)
		}
		if code := response.Result.Code; code != http.StatusBadRequest && code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: refused with code %d, want 400", name, code)
		}
	}
	s.expectSound(manager, pid)
}

// expectSound checks that nothing has panicked in a replica.
func (s *scene) expectSound(manager *harness.Manager, pid int) {
	s.Helper()
	panics, err := manager.Metric(s.Context(), "controller_runtime_webhook_panics_total", nil)
	if err != nil || panics != 0 {
		s.Errorf("%v panics were counted (error %v)", panics, err)
	}
	if manager.PID() != pid || !manager.Running() {
		s.Errorf("%s did not live through it", manager.Name)
	}
	if err := manager.Ready(s.Context()); err != nil {
		s.Error(err)
	}
}

func TestDeviceThatIsNullTakesNoAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	// A device that names no network may be on that of any other test.
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.99.1", "10.16.99.2")))
	manifest := fmt.Sprintf(`{"metadata":{"name":"cp-0","namespace":%q,"labels":{%q:%q}},"spec":{"network":{"devices":[null]}}}`,
		s.ns, harness.PoolLabel, harness.DefaultPool)

	response := s.ask(shared.managers[0], s.creation("cp-0", []byte(manifest)))

	if response.Allowed {
		t.Errorf("the machine was admitted with the patch %s", response.Patch)
	}
	s.noClaims()
}

func TestCallWithTooLittleTimeIsDeniedWithoutAClaim(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	review := &admissionv1.AdmissionReview{Request: s.creation("cp-0", s.onOwnNetwork(s.manifest(s.pooled("cp-0"))))}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	made, err := shared.managers[0].Metric(t.Context(), "capv_static_ip_admissions_total", map[string]string{"reason": "TimeoutTooShort"})
	if err != nil {
		t.Fatal(err)
	}

	for _, timeout := range []string{"1s", "2s", "2.9s"} {
		response, err := s.send(t.Context(), shared.managers[0], timeout, body)
		if err != nil {
			t.Fatal(err)
		}
		if response.Allowed || !strings.Contains(response.Result.Message, "less than 3s") {
			t.Errorf("with a timeout of %s got %+v, want it denied", timeout, response)
		}
		if claims := s.claims(); len(claims) > 0 {
			t.Errorf("with a timeout of %s claim %s was made", timeout, claims[0].GetName())
		}
	}
	if now, err := shared.managers[0].Metric(t.Context(), "capv_static_ip_admissions_total", map[string]string{"reason": "TimeoutTooShort"}); err != nil || now != made+3 {
		t.Errorf("%v denials were counted (error %v), want 3", now-made, err)
	}

	// With time enough the same review is served. No machine follows, so the
	// claim is an orphan from the start.
	start := time.Now()
	response, err := s.send(t.Context(), shared.managers[0], "10s", body)
	if err != nil || !response.Allowed {
		t.Fatalf("with a timeout of 10s got %+v and error %v, want it admitted", response, err)
	}
	s.within(gracePeriod+harness.Soon, "the claim without a machine to be reaped", func(context.Context) error {
		if claims := s.claims(); len(claims) > 0 {
			return fmt.Errorf("claim %s exists", claims[0].GetName())
		}
		return nil
	})
	if age := time.Since(start); age < gracePeriod {
		t.Errorf("the claim was reaped after %s, want no less than %s", age, gracePeriod)
	}
}
