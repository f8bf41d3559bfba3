package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// ServingCertificate is the Certificate, in SystemNamespace, that the managers
	// serve with where cert-manager issues it.
	ServingCertificate = "capv-static-ip-serving-cert"
	// ServingSecret is where cert-manager puts it.
	ServingSecret = "capv-static-ip-webhook-service-cert" //nolint:gosec // the name of a Secret

	webhookConfiguration = "capv-static-ip-mutating-webhook-configuration"
	// certificateTimeout is how long the first certificate may take.
	certificateTimeout = time.Minute
)

// Renewal says when cert-manager renews the serving certificate, if not when
// certs/ says. An hour, renewed 59m50s before its end, makes a new certificate
// every ten seconds, within cert-manager's limits.
type Renewal struct {
	// Duration is for how long a certificate is valid; as in certs/ if 0.
	Duration time.Duration
	// RenewBefore is how long before its end it is renewed.
	RenewBefore time.Duration
}

// InstallIssued applies deploy/default as it is, on a control plane where
// cert-manager runs: it issues the serving certificate and tells the API server
// whom to trust, and the API server finds the managers through the Service.
// Only the Service has no pods to lead to, and leads to the forwarder.
func (c *ControlPlane) InstallIssued(ctx context.Context, renewal Renewal) (*Installation, error) {
	rendered, err := c.renderOurs(ctx)
	if err != nil {
		return nil, err
	}
	forwarder, err := c.NewForwarder()
	if err != nil {
		return nil, err
	}
	identity, err := c.ServiceAccount(SystemNamespace, managerAccount)
	if err != nil {
		return nil, err
	}
	objects := rendered.only(append([]string{"Issuer", "Certificate"}, applied...)...)
	if err := objects.leadTo(forwarder.Address()); err != nil {
		return nil, err
	}
	if err := objects.renew(renewal); err != nil {
		return nil, err
	}
	if err := c.apply(ctx, objects); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.Dir, "manager-certificates-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for certificates: %w", err)
	}
	if err := c.mount(ctx, types.NamespacedName{Namespace: SystemNamespace, Name: ServingSecret}, dir); err != nil {
		return nil, err
	}
	installation := &Installation{
		Forwarder: forwarder, certificateDir: dir,
		plane: c, objects: objects, identity: identity,
	}
	if err := installation.awaitInjection(ctx); err != nil {
		return nil, err
	}
	return installation, installation.awaitWebhook(ctx)
}

// leadTo makes the webhook's Service another name of this machine. Such a
// Service has no ports, so the port is that of whoever calls it.
func (m manifests) leadTo(address string) error {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return err
	}
	for _, service := range m.only("Service") {
		service.Object["spec"] = map[string]any{"type": string(corev1.ServiceTypeExternalName), "externalName": "localhost"}
	}
	for _, configuration := range m.only("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration") {
		webhooks, _, err := unstructured.NestedSlice(configuration.Object, "webhooks")
		if err != nil {
			return fmt.Errorf("reading the webhooks of %s: %w", configuration.GetName(), err)
		}
		for _, entry := range webhooks {
			webhook, ok := entry.(map[string]any)
			if !ok {
				return fmt.Errorf("reading the webhooks of %s: not an object", configuration.GetName())
			}
			if err := unstructured.SetNestedField(webhook, port, "clientConfig", "service", "port"); err != nil {
				return fmt.Errorf("rewriting the webhooks of %s: %w", configuration.GetName(), err)
			}
		}
		if err := unstructured.SetNestedSlice(configuration.Object, webhooks, "webhooks"); err != nil {
			return fmt.Errorf("rewriting the webhooks of %s: %w", configuration.GetName(), err)
		}
	}
	return nil
}

// renew makes the serving certificate be renewed at another time.
func (m manifests) renew(renewal Renewal) error {
	if renewal.Duration == 0 {
		return nil
	}
	for _, certificate := range m.only("Certificate") {
		if certificate.GetName() != ServingCertificate {
			continue
		}
		err := errors.Join(
			unstructured.SetNestedField(certificate.Object, renewal.Duration.String(), "spec", "duration"),
			unstructured.SetNestedField(certificate.Object, renewal.RenewBefore.String(), "spec", "renewBefore"),
		)
		if err != nil {
			return fmt.Errorf("changing the renewal of %s: %w", certificate.GetName(), err)
		}
	}
	return nil
}

// awaitInjection waits until the CA injector has told the API server whom to
// trust.
func (i *Installation) awaitInjection(ctx context.Context) error {
	return Eventually(ctx, certificateTimeout, "cert-manager to inject the authority", func(ctx context.Context) error {
		configuration := &admissionv1.MutatingWebhookConfiguration{}
		if err := i.plane.Client.Get(ctx, client.ObjectKey{Name: webhookConfiguration}, configuration); err != nil {
			return err
		}
		for _, webhook := range configuration.Webhooks {
			if len(webhook.ClientConfig.CABundle) == 0 {
				return fmt.Errorf("webhook %s has none", webhook.Name)
			}
		}
		return nil
	})
}
