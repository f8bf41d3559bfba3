package inventory

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// webhookName is the webhook without which machines are stored without addresses
// (deploy/webhook).
const webhookName = "vspheremachines.capv-static-ip.dev"

// injectFrom is cert-manager's annotation with the Certificate that a caBundle comes from.
const injectFrom = "cert-manager.io/inject-ca-from"

var certificateKind = schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"}

// Webhook is what sends VSphereMachines to the manager.
type Webhook struct {
	Configuration string
	admissionv1.MutatingWebhook
	// Ready are the endpoints of its Service that are, -1 if it has no Service.
	Ready int
	// CertificateEnd is when the serving certificate ends, zero if it is not cert-manager's.
	CertificateEnd time.Time
}

// IsForFindings tells whether a kind, as Unseen names it, is read for findings alone.
func IsForFindings(kind string) bool { return slices.Contains(webhookKinds, kind) }

// webhooks reads what sends machines to a manager, in whatever namespace that runs.
func (s Source) webhooks(ctx context.Context, g *Graph) {
	s.Namespace, s.namespaces = "", nil
	s.list(ctx, g, &admissionv1.MutatingWebhookConfiguration{}, func(object client.Object) {
		configuration := object.(*admissionv1.MutatingWebhookConfiguration)
		for _, webhook := range configuration.Webhooks {
			if webhook.Name == webhookName {
				g.Webhooks = append(g.Webhooks, Webhook{
					Configuration: configuration.Name, MutatingWebhook: webhook, Ready: s.readyOf(ctx, g, webhook.ClientConfig.Service),
					CertificateEnd: s.certificateEnd(ctx, g, configuration),
				})
			}
		}
	})
}

// readyOf is how many endpoints of a Service are ready.
func (s Source) readyOf(ctx context.Context, g *Graph, service *admissionv1.ServiceReference) int {
	if service == nil {
		return -1
	}
	s.Namespace = service.Namespace
	ready := 0
	s.list(ctx, g, &discoveryv1.EndpointSlice{}, func(object client.Object) {
		if object.GetLabels()[discoveryv1.LabelServiceName] != service.Name {
			return
		}
		for _, endpoint := range object.(*discoveryv1.EndpointSlice).Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				ready++
			}
		}
	})
	return ready
}

// certificateEnd is when the certificate ends that cert-manager keeps for the webhook.
func (s Source) certificateEnd(ctx context.Context, g *Graph, configuration *admissionv1.MutatingWebhookConfiguration) time.Time {
	namespace, name, ok := strings.Cut(configuration.Annotations[injectFrom], "/")
	if !ok {
		return time.Time{}
	}
	s.Namespace = namespace
	certificates := &unstructured.Unstructured{}
	certificates.SetGroupVersionKind(certificateKind)
	var end time.Time
	s.list(ctx, g, certificates, func(object client.Object) {
		if client.ObjectKeyFromObject(object) == (types.NamespacedName{Namespace: namespace, Name: name}) {
			end, _ = time.Parse(time.RFC3339, first(object.(*unstructured.Unstructured), "status.notAfter"))
		}
	})
	return end
}

// endsWithin is how long before its end a certificate is told of. cert-manager renews it 30
// days before.
const endsWithin = 7 * 24 * time.Hour

// webhookUnready finds what keeps machines from being given addresses, or from being stored.
func (a *audit) webhookUnready() []*Finding {
	if len(a.Webhooks) == 0 {
		return []*Finding{about(WebhookUnready, Failing, Involved{Kind: "webhook", NamespacedName: types.NamespacedName{Name: webhookName}}).
			because("is in no MutatingWebhookConfiguration: machines are stored without addresses").
			remedy("install capv-static-ip again, then look for SIP-007")}
	}
	var findings []*Finding
	for i := range a.Webhooks {
		webhook := &a.Webhooks[i]
		object := Involved{Kind: "MutatingWebhookConfiguration", NamespacedName: types.NamespacedName{Name: webhook.Configuration}}
		for _, wrong := range webhook.wrong(a.At) {
			findings = append(findings, about(WebhookUnready, Failing, object).because("%s", wrong.text).remedy("%s", wrong.remedy))
		}
	}
	return findings
}

// flaw is what is wrong with a webhook.
type flaw struct{ text, remedy string }

// wrong is what is wrong with a webhook at a time.
func (w *Webhook) wrong(at time.Time) []flaw {
	var found []flaw
	if w.FailurePolicy != nil && *w.FailurePolicy != admissionv1.Fail {
		found = append(found, flaw{"has failurePolicy " + string(*w.FailurePolicy) + ": machines are stored without addresses while no manager answers", "apply the manifests again"})
	}
	if len(w.MatchConditions) == 0 {
		found = append(found, flaw{"has no match conditions: all machines depend on the manager", "apply the manifests again"})
	}
	if !slices.ContainsFunc(w.Rules, isForMachines) {
		found = append(found, flaw{"does not match VSphereMachines that are created and updated", "apply the manifests again"})
	}
	if text := wrongBundle(w.ClientConfig.CABundle, at); text != "" {
		found = append(found, flaw{text, "see if cert-manager and its CA injector run"})
	}
	if w.Ready == 0 {
		found = append(found, flaw{"sends machines to a Service without an endpoint that is ready: all that need an address are refused", "see why the manager's Pods are not ready"})
	}
	if left := w.CertificateEnd.Sub(at); !w.CertificateEnd.IsZero() && left < endsWithin {
		found = append(found, flaw{"is served with a certificate that ends at " + w.CertificateEnd.UTC().Format(time.RFC3339), "see why cert-manager does not renew it"})
	}
	return found
}

func isForMachines(rule admissionv1.RuleWithOperations) bool {
	has := func(list []string, entry string) bool {
		return slices.Contains(list, entry) || slices.Contains(list, "*")
	}
	hasOperation := func(operation admissionv1.OperationType) bool {
		return slices.Contains(rule.Operations, operation) || slices.Contains(rule.Operations, admissionv1.OperationAll)
	}
	return has(rule.APIGroups, "infrastructure.cluster.x-k8s.io") && has(rule.Resources, "vspheremachines") &&
		hasOperation(admissionv1.Create) && hasOperation(admissionv1.Update)
}

// wrongBundle says what is wrong with the authorities that the API server believes.
func wrongBundle(bundle []byte, at time.Time) string {
	if len(bundle) == 0 {
		return "has no caBundle: the API server believes no manager, and refuses all machines that need an address"
	}
	var latest time.Time
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if authority, err := x509.ParseCertificate(block.Bytes); err == nil && authority.NotAfter.After(latest) {
			latest = authority.NotAfter
		}
	}
	switch {
	case latest.IsZero():
		return "has a caBundle that cannot be read"
	case latest.Sub(at) < endsWithin:
		return "has a caBundle of which the last certificate ends at " + latest.UTC().Format(time.RFC3339)
	}
	return ""
}
