package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/webhook"
)

const (
	// denied begins every denial, as the API server passes it on.
	denied = `admission webhook "vspheremachines.capv-static-ip.dev" denied the request: `
	// tries is how often a denial must have the same text.
	tries = 10
	// longestRequest is what a request may take that runs into its deadline.
	longestRequest = 20 * time.Second
)

// text completes an expected message with the scene's namespace, whose name
// differs in every run.
func (s *scene) text(message string) string {
	return strings.ReplaceAll(message, "NAMESPACE", s.ns)
}

// expectDenial checks that an error is this denial, to the letter.
func (s *scene) expectDenial(err error, message string) {
	s.Helper()
	want := denied + s.text(message)
	if err == nil {
		s.Errorf("it was admitted, want the denial\n\t%s", want)
	} else if err.Error() != want {
		s.Errorf("got the error\n\t%s\nwant\n\t%s", err, want)
	}
}

// denyMachines creates machines of ten names at once, checks that each is denied
// with this very text, and that no claim is left behind.
func (s *scene) denyMachines(message string, options ...harness.Option) {
	s.Helper()
	s.denyTen(message, options...)
	s.expectNoOrphans()
}

// denyTen is denyMachines where nothing can be claimed at all.
func (s *scene) denyTen(message string, options ...harness.Option) {
	s.Helper()
	errs := make([]error, tries)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			errs[i] = s.env.Client.Create(s.Context(), harness.Machine(s.ns, refusedName(i), options...))
		})
	}
	group.Wait()
	for _, err := range errs {
		s.expectDenial(err, message)
	}
}

func refusedName(try int) string { return fmt.Sprintf("refused-%d", try) }

// denyMachine creates a machine of one name ten times, one after the other.
func (s *scene) denyMachine(message, name string, options ...harness.Option) {
	s.Helper()
	for range tries {
		err := s.env.Client.Create(s.Context(), harness.Machine(s.ns, name, options...))
		s.expectDenial(err, message)
	}
}

// expectNoOrphans checks that each claim of ours has its machine, at this moment:
// what is refused is cleaned up before the answer is given.
func (s *scene) expectNoOrphans() {
	s.Helper()
	options := harness.InvariantOptions{Namespaces: []string{s.ns}}
	for _, err := range harness.CheckInvariants(s.Context(), s.env.Client, options) {
		s.Error(err)
	}
}

// expectNoClaims checks that the namespace has not a single claim.
func (s *scene) expectNoClaims() {
	s.Helper()
	for _, claim := range s.claims() {
		s.Errorf("%T %s was made", claim, claim.GetName())
	}
}

// warnings collects what the API server warns a client of.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Headers are not translated back, see networks.
	w.texts = append(w.texts, ownNetwork.ReplaceAllString(text, sharedNetwork))
}

// expect checks that these warnings came since the last call, and no others.
func (w *warnings) expect(s *scene, texts ...string) {
	s.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range texts {
		texts[i] = s.text(texts[i])
	}
	if !slices.Equal(w.texts, texts) {
		s.Errorf("got the warnings %q, want %q", w.texts, texts)
	}
	w.texts = nil
}

// warnedClient is a client that keeps the warnings it gets.
func (s *scene) warnedClient() (client.Client, *warnings) {
	s.Helper()
	kept := &warnings{}
	return s.client(func(config *rest.Config) { config.WarningHandler = kept }), kept
}

// client is the administrator's client with another configuration.
func (s *scene) client(change func(*rest.Config)) client.Client {
	s.Helper()
	config := rest.CopyConfig(s.env.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return networks{next} })
	change(config)
	c, err := client.New(config, client.Options{Scheme: harness.Scheme})
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// creation is the admission request that the API server would send for a
// machine, given as the JSON of its manifest.
func (s *scene) creation(name string, manifest []byte) *admissionv1.AdmissionRequest {
	resource := metav1.GroupVersionResource{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Resource: "vspheremachines"}
	return &admissionv1.AdmissionRequest{
		UID:       uuid.NewUUID(),
		Kind:      metav1.GroupVersionKind{Group: resource.Group, Version: resource.Version, Kind: "VSphereMachine"},
		Resource:  resource,
		Namespace: s.ns,
		Name:      name,
		Operation: admissionv1.Create,
		Object:    runtime.RawExtension{Raw: manifest},
	}
}

// ask sends an admission request straight to a replica, for what the API server
// would not let through, or would change on its way into the store.
func (s *scene) ask(replica *harness.Manager, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	s.Helper()
	review := &admissionv1.AdmissionReview{Request: request}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	body, err := json.Marshal(review)
	if err != nil {
		s.Fatal(err)
	}
	answer := &admissionv1.AdmissionReview{}
	if err := s.post(replica, body, answer); err != nil {
		s.Fatal(err)
	}
	if answer.Response == nil || answer.Response.UID != request.UID {
		s.Fatalf("asked for %s, got the response %+v", request.UID, answer.Response)
	}
	return answer.Response
}

func (s *scene) post(replica *harness.Manager, body []byte, answer any) error {
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(s.env.Certificates.CABundle)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(s.Context(), longestRequest)
	defer cancel()
	url := "https://" + replica.WebhookAddress + webhook.Path + "?timeout=10s"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(answer)
}

// manifest is the JSON of a machine as its user wrote it.
func (s *scene) manifest(machine client.Object) []byte {
	s.Helper()
	object, err := harness.Unstructured(machine)
	if err != nil {
		s.Fatal(err)
	}
	content, err := object.MarshalJSON()
	if err != nil {
		s.Fatal(err)
	}
	return content
}

// admissions counts the requests that have reached a replica.
func (s *scene) admissions(replica *harness.Manager) float64 {
	s.Helper()
	count, err := replica.Metric(s.Context(), "capv_static_ip_admissions_total", nil)
	if err != nil {
		s.Fatal(err)
	}
	return count
}

// expectSame compares two values by what they are as JSON.
func expectSame(s *scene, what string, got, want any) {
	s.Helper()
	gotText, err := json.MarshalIndent(got, "\t", "  ")
	if err != nil {
		s.Fatal(err)
	}
	wantText, err := json.MarshalIndent(want, "\t", "  ")
	if err != nil {
		s.Fatal(err)
	}
	if !bytes.Equal(gotText, wantText) {
		s.Errorf("%s: got\n\t%s\nwant\n\t%s", what, gotText, wantText)
	}
}
