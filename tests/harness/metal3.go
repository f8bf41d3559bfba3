package harness

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Metal3Options says how the provider runs.
type Metal3Options struct {
	// Throttled keeps metal3's own limit of 20 requests a second, which makes
	// it bind about ten claims a second. The default here is no limit.
	Throttled bool
	// WithoutWebhooks leaves metal3's webhooks out, so that a claim can be made
	// while the provider does not run.
	WithoutWebhooks bool
}

// Metal3 is the real metal3 IP Address Manager. Stop and Start work as on any
// process; while it is stopped, its webhooks refuse to make claims and pools.
type Metal3 struct {
	*Process
	plane    *ControlPlane
	webhooks manifests
}

// StartMetal3 starts metal3's manager under the rights that its own manifests
// grant, and installs its webhooks.
func (c *ControlPlane) StartMetal3(ctx context.Context, options Metal3Options) (*Metal3, error) {
	objects, err := c.metal3Manifests(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.apply(ctx, objects.only("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")); err != nil {
		return nil, err
	}
	certificates, err := c.newCertificates("metal3-ipam")
	if err != nil {
		return nil, err
	}
	port, err := c.ports.take()
	if err != nil {
		return nil, err
	}
	process, err := c.metal3Process(ctx, port, certificates.Dir, options)
	if err != nil {
		return nil, err
	}
	if err := c.run(ctx, process); err != nil {
		return nil, err
	}
	metal3 := &Metal3{Process: process, plane: c, webhooks: objects.only("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")}
	if err := metal3.webhooks.pointWebhooks(loopback(port), certificates.CABundle); err != nil {
		return nil, err
	}
	if options.WithoutWebhooks {
		return metal3, nil
	}
	return metal3, metal3.InstallWebhooks(ctx)
}

func (c *ControlPlane) metal3Manifests(ctx context.Context) (manifests, error) {
	dir, err := c.builder.ModuleDir(ctx, metal3Family, metal3Module)
	if err != nil {
		return nil, err
	}
	return c.render(ctx, filepath.Join(dir, "config/default"))
}

func (c *ControlPlane) metal3Process(ctx context.Context, webhookPort int, certificates string, options Metal3Options) (*Process, error) {
	binary, err := c.builder.Path(ctx, "metal3-ipam")
	if err != nil {
		return nil, err
	}
	identity, err := c.ServiceAccount("metal3-ipam-system", "ipam-manager")
	if err != nil {
		return nil, err
	}
	health, err := c.ports.take()
	if err != nil {
		return nil, err
	}
	diagnostics, err := c.ports.take()
	if err != nil {
		return nil, err
	}
	args := []string{
		"--kubeconfig=" + identity.Kubeconfig,
		"--webhook-port=" + strconv.Itoa(webhookPort),
		"--webhook-cert-dir=" + certificates,
		"--health-addr=" + loopback(health),
		"--diagnostics-address=" + loopback(diagnostics),
		"--insecure-diagnostics",
	}
	if !options.Throttled {
		args = append(args, "--kube-api-qps=1000", "--kube-api-burst=2000")
	}
	return &Process{
		Name: "metal3-ipam", path: binary, args: args,
		ready: answers(http.DefaultTransport, "http://"+loopback(health)+"/readyz"),
	}, nil
}

// InstallWebhooks makes the API server call metal3's webhooks.
func (m *Metal3) InstallWebhooks(ctx context.Context) error {
	return m.plane.apply(ctx, m.webhooks)
}

// RemoveWebhooks makes the API server stop calling metal3's webhooks, as where
// somebody installed metal3 without them.
func (m *Metal3) RemoveWebhooks(ctx context.Context) error {
	for _, object := range m.webhooks {
		if err := m.plane.Client.Delete(ctx, object.DeepCopy()); err != nil {
			return fmt.Errorf("removing the webhooks of metal3: %w", err)
		}
	}
	return Eventually(ctx, Soon, "the API server to forget the webhooks of metal3", func(ctx context.Context) error {
		return m.plane.Client.Create(ctx, Claim(metav1.NamespaceDefault, "probe", DefaultPool), client.DryRunAll)
	})
}
