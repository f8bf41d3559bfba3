package installation

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/deploy"
)

// webhook compares the webhook configuration with the one that is shipped with who looks.
func (c Checker) webhook(found *Found) Finding {
	f := Finding{Check: "webhook", State: Failed}
	if found.Webhook == nil {
		f.Found = fmt.Sprintf("there is no MutatingWebhookConfiguration %s: machines are stored without an address", WebhookName)
		f.Remedy = "install capv-static-ip again, see docs/install.md; kubectl static-ip explain tells which machines wait"
		return f
	}
	differences, err := Differences(found.Webhook)
	switch {
	case err != nil:
		return unknown(f.Check, err)
	case len(differences) == 0:
		return Finding{Check: f.Check, State: OK, Found: WebhookName + " is as it was shipped"}
	}
	f.Found = strings.Join(differences, "; ")
	f.Remedy = "apply the manifest of your version again, and find out who changed it: kubectl get mutatingwebhookconfiguration " +
		WebhookName + " -o yaml --show-managed-fields"
	if skew := Skew(c.Version, found.Version()); skew != "" {
		f.State, f.Remedy = Warning, "use the program of the manager's version: "+skew
	}
	return f
}

// Differences are those to what is shipped that matter. What installations set for
// themselves is left out: where the webhook is, in which namespaces it is asked, and for
// how long.
func Differences(there *admissionv1.MutatingWebhookConfiguration) ([]string, error) {
	shipped := &admissionv1.MutatingWebhookConfiguration{}
	if err := yaml.UnmarshalStrict(deploy.MutatingWebhookConfiguration, shipped); err != nil {
		return nil, fmt.Errorf("reading what is shipped: %w", err)
	}
	var differences []string
	for _, want := range shipped.Webhooks {
		i := slices.IndexFunc(there.Webhooks, func(w admissionv1.MutatingWebhook) bool { return w.Name == want.Name })
		if i < 0 {
			differences = append(differences, fmt.Sprintf("webhook %s is missing", want.Name))
			continue
		}
		for _, field := range changed(there.Webhooks[i], want) {
			differences = append(differences, fmt.Sprintf("%s of webhook %s is not as shipped", field, want.Name))
		}
	}
	return differences, nil
}

func changed(got, want admissionv1.MutatingWebhook) (fields []string) {
	compare := func(field string, got, want any) {
		if !equality.Semantic.DeepEqual(got, want) {
			fields = append(fields, field)
		}
	}
	compare("failurePolicy", got.FailurePolicy, want.FailurePolicy)
	compare("matchPolicy", got.MatchPolicy, want.MatchPolicy)
	compare("reinvocationPolicy", got.ReinvocationPolicy, want.ReinvocationPolicy)
	compare("sideEffects", got.SideEffects, want.SideEffects)
	compare("rules", got.Rules, want.Rules)
	compare("matchConditions", trimmed(got.MatchConditions), trimmed(want.MatchConditions))
	if got.ObjectSelector != nil && (len(got.ObjectSelector.MatchLabels) > 0 || len(got.ObjectSelector.MatchExpressions) > 0) {
		fields = append(fields, "objectSelector")
	}
	if service := got.ClientConfig.Service; service != nil {
		compare("clientConfig.service", []any{service.Name, service.Path}, []any{want.ClientConfig.Service.Name, want.ClientConfig.Service.Path})
	}
	return fields
}

// trimmed are match conditions without the white space around them, which ways to
// install keep or not.
func trimmed(conditions []admissionv1.MatchCondition) []admissionv1.MatchCondition {
	conditions = slices.Clone(conditions)
	for i := range conditions {
		conditions[i].Expression = strings.TrimSpace(conditions[i].Expression)
	}
	return conditions
}

// authority looks whom the API server trusts when it calls us.
func (c Checker) authority(found *Found) Finding {
	f := Finding{Check: "authority", State: Failed}
	if found.Webhook == nil {
		return Finding{}
	}
	f.Remedy = "cert-manager's cainjector writes caBundle: kubectl -n cert-manager logs deployment/cert-manager-cainjector"
	var end time.Time
	for _, webhook := range found.Webhook.Webhooks {
		bundle := webhook.ClientConfig.CABundle
		if len(bundle) == 0 {
			f.Found = fmt.Sprintf("caBundle of webhook %s is empty: the API server trusts no certificate of ours", webhook.Name)
			return f
		}
		last, err := lastEnd(bundle)
		if err != nil {
			f.Found = fmt.Sprintf("caBundle of webhook %s cannot be read: %v", webhook.Name, err)
			return f
		}
		if end.IsZero() || last.Before(end) {
			end = last
		}
	}
	f.State, f.Found = c.until(end)
	if f.State == OK {
		f.Remedy = ""
	}
	return f
}

// lastEnd is the latest end of the certificates in a bundle.
func lastEnd(bundle []byte) (time.Time, error) {
	var last time.Time
	for rest := bytes.TrimSpace(bundle); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return last, fmt.Errorf("it is no PEM")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return last, err
		}
		if certificate.NotAfter.After(last) {
			last = certificate.NotAfter
		}
	}
	return last, nil
}

// until judges the end of a certificate.
func (c Checker) until(end time.Time) (State, string) {
	text := "until " + end.UTC().Format(time.DateOnly)
	switch left := end.Sub(c.Now()); {
	case left <= 0:
		return Failed, "it has ended: " + text
	case left < timeToRenew:
		return Warning, text + ": it should have been renewed"
	default:
		return OK, text
	}
}

// capacity looks at the webhook that warns, where it is installed. It must never keep
// anybody from anything.
func (c Checker) capacity(found *Found) Finding {
	if found.Capacity == nil {
		return Finding{}
	}
	f := Finding{Check: "capacity-webhook", State: OK, Found: CapacityName + " is there"}
	for _, webhook := range found.Capacity.Webhooks {
		switch {
		case webhook.FailurePolicy == nil || *webhook.FailurePolicy != admissionv1.Ignore:
			f.State, f.Found = Failed, fmt.Sprintf("failurePolicy of webhook %s is not Ignore: roll-outs depend on it", webhook.Name)
			f.Remedy = "apply the manifest of your version again"
		case len(webhook.ClientConfig.CABundle) == 0:
			f.State, f.Found = Warning, fmt.Sprintf("caBundle of webhook %s is empty: nobody is warned", webhook.Name)
			f.Remedy = "cert-manager's cainjector writes it: kubectl -n cert-manager logs deployment/cert-manager-cainjector"
		}
	}
	return f
}

// Skew says how far two versions are apart, empty if they are of one minor version, or if
// one of them is none.
func Skew(client, manager string) string {
	ours, err := version.ParseSemantic(client)
	if err != nil {
		return ""
	}
	theirs, err := version.ParseSemantic(manager)
	if err != nil || (ours.Major() == theirs.Major() && ours.Minor() == theirs.Minor()) {
		return ""
	}
	return fmt.Sprintf("this program is of version %s, the manager of %s: what it says may be wrong", client, manager)
}
