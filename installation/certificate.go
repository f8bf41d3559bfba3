package installation

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
)

var certificateKind = schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"}

// certificate looks at what we serve with: at cert-manager's Certificate, and where there
// is none, at the Secret. Only the certificate in it is read.
func (c Checker) certificate(ctx context.Context, found *Found) Finding {
	f := Finding{Check: "certificate"}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(certificateKind)
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: found.Namespace, Name: certificateName}, object)
	switch {
	case kube.IsAbsent(err):
		return c.servedFrom(ctx, found)
	case err != nil:
		return unknown(f.Check, fmt.Errorf("reading Certificate %s/%s: %w", found.Namespace, certificateName, err))
	}
	f.Remedy = fmt.Sprintf("kubectl -n %s describe certificate,certificaterequest,issuer", found.Namespace)
	if message, ready := isReady(object); !ready {
		f.State, f.Found = Failed, fmt.Sprintf("Certificate %s is not ready: %s", certificateName, message)
		return f
	}
	text, _, _ := unstructured.NestedString(object.Object, "status", "notAfter")
	end, err := time.Parse(time.RFC3339, text)
	if err != nil {
		f.State, f.Found = Failed, fmt.Sprintf("Certificate %s does not say until when it is valid", certificateName)
		return f
	}
	if f.State, f.Found = c.until(end); f.State == OK {
		f.Remedy = ""
	}
	return f
}

func isReady(certificate *unstructured.Unstructured) (message string, ready bool) {
	conditions, _, _ := unstructured.NestedSlice(certificate.Object, "status", "conditions")
	for _, entry := range conditions {
		condition, ok := entry.(map[string]any)
		if ok && condition["type"] == "Ready" {
			message, _ = condition["message"].(string)
			return message, condition["status"] == "True"
		}
	}
	return "cert-manager has not looked at it", false
}

// servedFrom looks at the Secret that the Deployment mounts.
func (c Checker) servedFrom(ctx context.Context, found *Found) Finding {
	f := Finding{Check: "certificate", State: Failed}
	name := secretName
	if found.Deployment != nil {
		for _, volume := range found.Deployment.Spec.Template.Spec.Volumes {
			if volume.Name == "serving-cert" && volume.Secret != nil {
				name = volume.Secret.SecretName
			}
		}
	}
	secret := &corev1.Secret{}
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: found.Namespace, Name: name}, secret)
	switch {
	case apierrors.IsNotFound(err):
		f.Found = fmt.Sprintf("there is neither a Certificate %s nor a Secret %s in namespace %s", certificateName, name, found.Namespace)
		f.Remedy = "install cert-manager, or give the chart webhook.certSecret"
		return f
	case err != nil:
		return unknown(f.Check, fmt.Errorf("reading the certificate in Secret %s/%s: %w", found.Namespace, name, err))
	}
	f.Remedy = fmt.Sprintf("renew the certificate in Secret %s/%s", found.Namespace, name)
	end, err := lastEnd(secret.Data[corev1.TLSCertKey])
	if err != nil || end.IsZero() {
		f.Found = fmt.Sprintf("Secret %s/%s has no certificate in %s", found.Namespace, name, corev1.TLSCertKey)
		return f
	}
	if f.State, f.Found = c.until(end); f.State == OK {
		f.Remedy = ""
	}
	return f
}
