package installation

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// trial is the name of the machine that is asked for.
const trial = "kubectl-static-ip-check"

// noPool cannot be the name of a pool: so we answer with a refusal, even in a dry run and
// before anything is read, which shows that we were asked.
const noPool = "kubectl static-ip check"

// call asks the API server, in a dry run, for a machine that we have to refuse. Nothing is
// stored, nothing is claimed, and nobody is told.
func (c Checker) call(ctx context.Context, found *Found) Finding {
	f := Finding{Check: "call", State: Failed}
	if found.Webhook == nil {
		return Finding{}
	}
	namespace := served(found.Webhook, c.Namespace)
	mapping, err := c.Client.RESTMapper().RESTMapping(capi.VSphereMachineKind)
	if err != nil {
		return unknown(f.Check, fmt.Errorf("looking for %s: %w", capi.VSphereMachineKind, err))
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{
			"template": "none",
			"network":  map[string]any{"devices": []any{map[string]any{"networkName": "none"}}},
		},
	}}
	object.SetGroupVersionKind(mapping.GroupVersionKind)
	object.SetNamespace(namespace)
	object.SetName(trial)
	object.SetAnnotations(map[string]string{ipam.PoolsAnnotationPrefix + "0": noPool})
	return judged(c.Client.Create(ctx, object, client.DryRunAll), namespace)
}

// judged is what the answer to the trial tells of us.
func judged(err error, namespace string) Finding {
	f := Finding{Check: "call", State: Failed}
	ours := "vspheremachines.capv-static-ip.dev"
	switch {
	case err == nil:
		f.Found = fmt.Sprintf("a machine in namespace %q that asks for a pool would be stored without us", namespace)
		f.Remedy = "look at the webhook's namespaceSelector and matchConditions; a webhook configuration that is new takes a second"
	case strings.Contains(err.Error(), "failed calling webhook") && strings.Contains(err.Error(), ours):
		f.Found = err.Error()
		f.Remedy = "see that the API server reaches port 9443 of the Pods (NetworkPolicy, firewall, hostNetwork), and the certificate"
	case strings.Contains(err.Error(), fmt.Sprintf("admission webhook %q denied the request", ours)):
		f.State, f.Found = OK, fmt.Sprintf("the API server asked us about a machine in namespace %q (a dry run)", namespace)
	case apierrors.IsForbidden(err):
		f.State, f.Found = Unknown, fmt.Sprintf("you may not create VSphereMachines in namespace %q, not even in a dry run: so it is not known whether the API server reaches us", namespace)
		f.Remedy = "name a namespace in which you may with -n, or ask somebody who may create VSphereMachines"
	case apierrors.IsNotFound(err):
		f.State, f.Found = Unknown, fmt.Sprintf("there is no namespace %q", namespace)
		f.Remedy = "name one with -n"
	default:
		f.State, f.Found = Unknown, "somebody else refused the trial: "+err.Error()
		f.Remedy = "name another namespace with -n, if that one has a policy of its own"
	}
	return f
}

// served is the namespace to try: the one that was named, unless the webhook is asked in
// others only.
func served(configuration *admissionv1.MutatingWebhookConfiguration, namespace string) string {
	for _, webhook := range configuration.Webhooks {
		if webhook.NamespaceSelector == nil {
			continue
		}
		for _, r := range webhook.NamespaceSelector.MatchExpressions {
			if r.Key == corev1.LabelMetadataName && r.Operator == metav1.LabelSelectorOpIn && !slices.Contains(r.Values, namespace) && len(r.Values) > 0 {
				return r.Values[0]
			}
		}
	}
	return namespace
}
