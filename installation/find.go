// Package installation knows what capv-static-ip consists of in a cluster: where it is,
// who installed it, and whether it works.
package installation

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The names by which all ways to install know our objects.
const (
	// AppLabel is on everything that is installed, with the value App.
	AppLabel = "app.kubernetes.io/name"
	App      = "capv-static-ip"

	componentLabel = "app.kubernetes.io/component"
	component      = "manager"

	// Namespace is where we are, if nobody said otherwise.
	Namespace = "capv-static-ip-system"
	// DeploymentName is that of the manager.
	DeploymentName = "capv-static-ip-manager"
	// WebhookName is the MutatingWebhookConfiguration without which machines are stored as
	// they are.
	WebhookName = "capv-static-ip-mutating-webhook-configuration"
	// CapacityName is the ValidatingWebhookConfiguration that warns of roll-outs.
	CapacityName = "capv-static-ip-capacity"
	// LeaseName is that of the leader.
	LeaseName = "capv-static-ip-leader-election"

	certificateName = "capv-static-ip-serving-cert"
	secretName      = "capv-static-ip-webhook-service-cert"
	container       = "manager"
)

// PodLabels are on every Pod of the manager.
func PodLabels() client.MatchingLabels {
	return client.MatchingLabels{AppLabel: App, componentLabel: component}
}

// Found is what is installed of the parts that others lead to.
type Found struct {
	// Namespace is where the manager is, or would be.
	Namespace string
	// Deployment is nil if there is none.
	Deployment *appsv1.Deployment
	// Webhook is nil if there is none.
	Webhook *admissionv1.MutatingWebhookConfiguration
	// Capacity is nil if there is none.
	Capacity *admissionv1.ValidatingWebhookConfiguration
}

// Find finds an installation, wherever it is. It needs to get the two webhook
// configurations and the Deployment, and to list Deployments only if that is not where
// the webhook leads.
func Find(ctx context.Context, reader client.Reader) (*Found, error) {
	f := &Found{Namespace: Namespace}
	webhook := &admissionv1.MutatingWebhookConfiguration{}
	switch err := reader.Get(ctx, client.ObjectKey{Name: WebhookName}, webhook); {
	case err == nil:
		f.Webhook = webhook
		f.Namespace = cmp.Or(serviceNamespace(webhook), Namespace)
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("reading MutatingWebhookConfiguration %q: %w", WebhookName, err)
	}
	capacity := &admissionv1.ValidatingWebhookConfiguration{}
	switch err := reader.Get(ctx, client.ObjectKey{Name: CapacityName}, capacity); {
	case err == nil:
		f.Capacity = capacity
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("reading ValidatingWebhookConfiguration %q: %w", CapacityName, err)
	}
	return f, f.findDeployment(ctx, reader)
}

func serviceNamespace(configuration *admissionv1.MutatingWebhookConfiguration) string {
	for i := range configuration.Webhooks {
		if service := configuration.Webhooks[i].ClientConfig.Service; service != nil {
			return service.Namespace
		}
	}
	return ""
}

func (f *Found) findDeployment(ctx context.Context, reader client.Reader) error {
	deployment := &appsv1.Deployment{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: f.Namespace, Name: DeploymentName}, deployment)
	if err == nil {
		f.Deployment = deployment
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading Deployment %q in namespace %q: %w", DeploymentName, f.Namespace, err)
	}
	deployments, err := Deployments(ctx, reader)
	switch {
	case apierrors.IsForbidden(err):
		// It is not where it should be, and who looks may not look elsewhere.
		return nil
	case err != nil:
		return err
	case len(deployments) > 0:
		f.Deployment, f.Namespace = &deployments[0], deployments[0].Namespace
	}
	return nil
}

// Deployments are all Deployments of the manager, in whichever namespaces: by name, and by
// the labels.
func Deployments(ctx context.Context, reader client.Reader) ([]appsv1.Deployment, error) {
	list := &appsv1.DeploymentList{}
	if err := reader.List(ctx, list); err != nil {
		return nil, fmt.Errorf("looking for the Deployment of the manager: %w", err)
	}
	return slices.DeleteFunc(list.Items, func(d appsv1.Deployment) bool {
		return d.Name != DeploymentName && (d.Labels[AppLabel] != App || d.Labels[componentLabel] != component)
	}), nil
}

// manager is the manager's container, nil if there is no Deployment or no such container.
func (f *Found) manager() *corev1.Container {
	if f.Deployment == nil {
		return nil
	}
	containers := f.Deployment.Spec.Template.Spec.Containers
	for i := range containers {
		if containers[i].Name == container {
			return &containers[i]
		}
	}
	return nil
}

// Image is the manager's image, empty if it is not known.
func (f *Found) Image() string {
	if manager := f.manager(); manager != nil {
		return manager.Image
	}
	return ""
}

// Version is the tag of the manager's image, empty if it has none.
func (f *Found) Version() string {
	image, _, _ := strings.Cut(f.Image(), "@")
	// A colon before the last slash is that of a port.
	name := image[strings.LastIndex(image, "/")+1:]
	_, tag, _ := strings.Cut(name, ":")
	return tag
}
