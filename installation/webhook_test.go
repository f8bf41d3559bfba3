package installation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/deploy"
)

var today = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func checker() Checker {
	return Checker{Namespace: "default", Version: "v0.1.0", Now: func() time.Time { return today }}
}

func shipped(t *testing.T) *admissionv1.MutatingWebhookConfiguration {
	t.Helper()
	configuration := &admissionv1.MutatingWebhookConfiguration{}
	if err := yaml.UnmarshalStrict(deploy.MutatingWebhookConfiguration, configuration); err != nil {
		t.Fatal(err)
	}
	return configuration
}

// bundle is a certificate with this end.
func bundle(t *testing.T, end time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: end.Add(-time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestWebhookAsShippedIsFine(t *testing.T) {
	there := shipped(t)
	for i := range there.Webhooks {
		webhook := &there.Webhooks[i]
		// What each installation has for itself.
		webhook.ClientConfig.Service.Namespace = "elsewhere"
		webhook.TimeoutSeconds = new(int32(20))
		webhook.NamespaceSelector = nil
		webhook.ClientConfig.CABundle = bundle(t, today)
	}
	if got := checker().webhook(&Found{Webhook: there}); got.State != OK {
		t.Errorf("got %+v, want that it is as shipped", got)
	}
}

func TestWebhookThatWasChangedIsToldOf(t *testing.T) {
	for want, change := range map[string]func(*admissionv1.MutatingWebhook){
		"failurePolicy":           func(w *admissionv1.MutatingWebhook) { *w.FailurePolicy = admissionv1.Ignore },
		"matchPolicy":             func(w *admissionv1.MutatingWebhook) { *w.MatchPolicy = admissionv1.Exact },
		"reinvocationPolicy":      func(w *admissionv1.MutatingWebhook) { *w.ReinvocationPolicy = admissionv1.NeverReinvocationPolicy },
		"sideEffects":             func(w *admissionv1.MutatingWebhook) { *w.SideEffects = admissionv1.SideEffectClassNone },
		"rules":                   func(w *admissionv1.MutatingWebhook) { w.Rules[0].Operations = w.Rules[0].Operations[:1] },
		"matchConditions":         func(w *admissionv1.MutatingWebhook) { w.MatchConditions[0].Expression += " && false" },
		"clientConfig.service":    func(w *admissionv1.MutatingWebhook) { w.ClientConfig.Service.Name = "other" },
		"webhook vspheremachines": func(w *admissionv1.MutatingWebhook) { w.Name = "other" },
	} {
		there := shipped(t)
		change(&there.Webhooks[0])
		got := checker().webhook(&Found{Webhook: there})
		if got.State != Failed || !strings.Contains(got.Found, want) || got.Remedy == "" {
			t.Errorf("got %+v, want it to fail for %s, with a remedy", got, want)
		}
	}
}

func TestWebhookOfAnotherVersionIsNotBlamed(t *testing.T) {
	there := shipped(t)
	there.Webhooks = there.Webhooks[1:]
	got := checker().webhook(&Found{Webhook: there, Deployment: deploymentOf("example.com/capv-static-ip:v0.2.0")})
	if got.State != Warning || !strings.Contains(got.Remedy, "v0.2.0") {
		t.Errorf("got %+v, want a warning that names the manager's version", got)
	}
}

func TestAuthorityIsJudgedByItsEnd(t *testing.T) {
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		bundle []byte
		want   State
	}{
		"it lasts":          {bundle(t, today.Add(30*day)), OK},
		"it ends soon":      {bundle(t, today.Add(3*day)), Warning},
		"it has ended":      {bundle(t, today.Add(-day)), Failed},
		"the last counts":   {append(bundle(t, today.Add(-day)), bundle(t, today.Add(30*day))...), OK},
		"there is none":     {nil, Failed},
		"it cannot be read": {[]byte("abc"), Failed},
	} {
		there := shipped(t)
		for i := range there.Webhooks {
			there.Webhooks[i].ClientConfig.CABundle = test.bundle
		}
		got := checker().authority(&Found{Webhook: there})
		if got.State != test.want || (got.Remedy == "") != (test.want == OK) {
			t.Errorf("%s: got %+v, want %s, and a remedy unless it is ok", name, got, test.want)
		}
	}
}

func TestCapacityWebhookMustNotRefuse(t *testing.T) {
	there := &admissionv1.ValidatingWebhookConfiguration{Webhooks: []admissionv1.ValidatingWebhook{{
		FailurePolicy: new(admissionv1.Ignore), ClientConfig: admissionv1.WebhookClientConfig{CABundle: []byte("x")},
	}}}
	if got := checker().capacity(&Found{Capacity: there}); got.State != OK {
		t.Errorf("got %+v, want ok", got)
	}
	*there.Webhooks[0].FailurePolicy = admissionv1.Fail
	if got := checker().capacity(&Found{Capacity: there}); got.State != Failed || got.Remedy == "" {
		t.Errorf("got %+v, want it to fail, with a remedy", got)
	}
}

func TestVersionsOfOneMinorGoTogether(t *testing.T) {
	for _, test := range []struct {
		client, manager string
		skewed          bool
	}{
		{"v0.1.0", "v0.1.7", false}, {"v0.1.0", "v0.2.0", true}, {"v1.1.0", "v0.1.0", true},
		{"v0.1.0", "dev", false}, {"unknown", "v0.1.0", false},
	} {
		if got := Skew(test.client, test.manager) != ""; got != test.skewed {
			t.Errorf("%s and %s: skewed is %v, want %v", test.client, test.manager, got, test.skewed)
		}
	}
}
