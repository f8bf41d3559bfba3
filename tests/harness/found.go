package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// managerDeployment is what deploy/ calls the Deployment of the managers.
const managerDeployment = "capv-static-ip-manager"

// InstallStackCRDs installs the definitions that installers need: those of cert-manager
// and of clusterctl. With Options.WholeStack they are there.
func (c *ControlPlane) InstallStackCRDs(ctx context.Context) error {
	definitions, err := c.stackDefinitions(ctx)
	if err != nil {
		return err
	}
	return c.installCRDs(ctx, definitions)
}

// Installed is Install where something else has applied our objects, as kubectl,
// clusterctl and Helm do. Managers run under the ServiceAccount that the Deployment
// names, and the webhook configuration is changed to call them.
func (c *ControlPlane) Installed(ctx context.Context) (*Installation, error) {
	deployment, err := c.deployment(ctx)
	if err != nil {
		return nil, err
	}
	account, _, err := unstructured.NestedString(deployment.Object, "spec", "template", "spec", "serviceAccountName")
	if err != nil {
		return nil, fmt.Errorf("reading the ServiceAccount of the managers: %w", err)
	}
	identity, err := c.ServiceAccount(SystemNamespace, account)
	if err != nil {
		return nil, err
	}
	certificates, err := c.newCertificates("manager")
	if err != nil {
		return nil, err
	}
	forwarder, err := c.NewForwarder()
	if err != nil {
		return nil, err
	}
	installation := &Installation{
		Forwarder: forwarder, Certificates: certificates, certificateDir: certificates.Dir,
		plane: c, identity: identity,
	}
	// Who has made it may still write it.
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error { return installation.LeadWebhooks(ctx) })
	if err != nil {
		return nil, err
	}
	return installation, installation.awaitWebhook(ctx)
}

// replicas is how many managers the Deployment asks for, 0 if there is no Deployment.
func (i *Installation) replicas(ctx context.Context) (int64, error) {
	deployment, err := i.plane.deployment(ctx)
	if err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	replicas, _, err := unstructured.NestedInt64(deployment.Object, "spec", "replicas")
	return replicas, err
}

func (c *ControlPlane) deployment(ctx context.Context) (*unstructured.Unstructured, error) {
	deployment := &unstructured.Unstructured{}
	deployment.SetAPIVersion("apps/v1")
	deployment.SetKind("Deployment")
	return deployment, c.Client.Get(ctx, client.ObjectKey{Namespace: SystemNamespace, Name: managerDeployment}, deployment)
}

// Follow does, until ctx ends, what a cluster does with a Deployment and a Service: it
// stops and starts these managers as the Deployment says, and has the webhook
// configuration lead to them, also if it is made anew.
func (i *Installation) Follow(ctx context.Context, managers []*Manager) error {
	// Managers do not end with it.
	apart := context.WithoutCancel(ctx)
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := i.scale(apart, managers); err != nil {
			return err
		}
		// Who makes it changes it, too.
		if err := i.LeadWebhooks(apart); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("leading the webhooks to the managers: %w", err)
		}
	}
}

func (i *Installation) scale(ctx context.Context, managers []*Manager) error {
	replicas, err := i.replicas(ctx)
	if err != nil {
		return fmt.Errorf("reading how many managers are to run: %w", err)
	}
	for _, manager := range managers {
		switch running := manager.Running(); {
		case running && replicas == 0:
			err = errors.Join(err, manager.Stop())
		case !running && replicas > 0:
			err = errors.Join(err, manager.Start(ctx))
		}
	}
	return err
}

// LeadWebhooks makes the webhook configuration call the managers, if it is there and
// still calls the Service, behind which nothing runs here.
func (i *Installation) LeadWebhooks(ctx context.Context) error {
	configuration := &admissionv1.MutatingWebhookConfiguration{}
	if err := i.plane.Client.Get(ctx, client.ObjectKey{Name: webhookConfiguration}, configuration); err != nil {
		return client.IgnoreNotFound(err)
	}
	// Where cert-manager runs, it would look for what is not its own here.
	configuration.Annotations = nil
	changed := false
	for n := range configuration.Webhooks {
		service := configuration.Webhooks[n].ClientConfig.Service
		if service == nil {
			continue
		}
		url := "https://" + i.Forwarder.Address() + *service.Path
		configuration.Webhooks[n].ClientConfig = admissionv1.WebhookClientConfig{URL: &url, CABundle: i.Certificates.CABundle}
		changed = true
	}
	if !changed {
		return nil
	}
	return i.plane.Client.Update(ctx, configuration)
}
