package integration

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// lateLabel marks the machines that the webhook of a test is sent.
const lateLabel = "example.org/late"

// late makes a machine one that the webhook of the test is sent.
var late = harness.WithLabel(lateLabel, "")

// lateWebhook is somebody else's, called after ours for the machines of the scene
// that are marked. It answers each create with an RFC 6902 patch, none if that is
// empty.
func (s *scene) lateWebhook(patch func(*admissionv1.AdmissionRequest) string) {
	s.Helper()
	var calls atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		review := &admissionv1.AdmissionReview{}
		if err := json.NewDecoder(r.Body).Decode(review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if text := patch(review.Request); text != "" {
			kind := admissionv1.PatchTypeJSONPatch
			review.Response.Patch, review.Response.PatchType = []byte(text), &kind
		}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	s.Cleanup(server.Close)
	configuration := lateConfiguration(s.ns, server)
	s.createGlobal(configuration)
	s.eventually("the API server to call the other webhook", func(ctx context.Context) error {
		// A machine that needs nothing: it is not sent to us.
		probe := harness.Machine(s.ns, "probe", late, harness.WithDevices(harness.DHCPDevice()))
		if err := s.env.Client.Create(ctx, probe, client.DryRunAll); err != nil {
			return err
		}
		if calls.Load() == 0 {
			return errors.New("it is not called")
		}
		return nil
	})
}

func lateConfiguration(namespace string, server *httptest.Server) client.Object {
	none, fail := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Fail
	return &admissionregistrationv1.MutatingWebhookConfiguration{
		// The API server calls webhooks in the order of these names.
		ObjectMeta: metav1.ObjectMeta{Name: "zz-" + namespace},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "late.example.org",
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				URL:      &server.URL,
				CABundle: harness.CertificatePEM(server.Certificate()),
			},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule: admissionregistrationv1.Rule{
					APIGroups: []string{capvv1.GroupName}, APIVersions: []string{"*"}, Resources: []string{"vspheremachines"},
				},
			}},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			ObjectSelector:          &metav1.LabelSelector{MatchLabels: map[string]string{lateLabel: ""}},
			SideEffects:             &none,
			FailurePolicy:           &fail,
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
}
