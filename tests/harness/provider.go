package harness

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Names of the providers that StartProvider knows, which are also those of
// their programs.
const (
	ClusterAPI          = "cluster-api"
	KubeadmBootstrap    = "kubeadm-bootstrap"
	KubeadmControlPlane = "kubeadm-control-plane"
	CAPV                = "capv"
	metal3IPAM          = "metal3-ipam"
	inClusterIPAM       = "in-cluster-ipam"
)

// provider says where a provider's manifests are, and how its manager is told
// what all of them can be told.
type provider struct {
	name string
	// family and module are where its manifests come from: the very module that
	// its program is built from.
	family, module, dir string
	// healthFlag is the flag for the address of its probes.
	healthFlag string
	args       []string
}

const healthAddr = "--health-addr="

// capiArgs keep the managers from rewriting objects for versions that this
// control plane never had.
var capiArgs = []string{"--skip-crd-migration-phases=StorageVersionMigration,CleanupManagedFields"}

var providers = []provider{
	{ClusterAPI, "cluster-api", capiModule, "config/default", healthAddr, capiArgs},
	{KubeadmBootstrap, "cluster-api", capiModule, "bootstrap/kubeadm/config/default", healthAddr, nil},
	{KubeadmControlPlane, "cluster-api", capiModule, "controlplane/kubeadm/config/default", healthAddr, nil},
	{CAPV, "capv", capvModule, "config/default", healthAddr, append([]string{"--leader-elect=false"}, capiArgs...)},
	{metal3IPAM, "metal3-ipam", "github.com/metal3-io/ip-address-manager", "config/default", healthAddr, nil},
	{inClusterIPAM, "in-cluster-ipam", "sigs.k8s.io/cluster-api-ipam-provider-in-cluster", "config/default", "--health-probe-bind-address=", nil},
}

func findProvider(name string) (provider, error) {
	i := slices.IndexFunc(providers, func(p provider) bool { return p.name == name })
	if i < 0 {
		return provider{}, fmt.Errorf("no provider is called %q", name)
	}
	return providers[i], nil
}

// Provider is the real manager of a part of a management cluster that is not
// ours. Stop and Start work as on any process; while it is stopped, its
// webhooks refuse what they would be asked about.
type Provider struct {
	*Process
	// User is whom the API server knows its manager as.
	User     string
	plane    *ControlPlane
	webhooks manifests
	probe    client.Object
}

// StartProvider starts a provider's manager under the rights that its own
// manifests grant, with more flags if any are given, and installs its webhooks.
func (c *ControlPlane) StartProvider(ctx context.Context, name string, args ...string) (*Provider, error) {
	started, err := c.startWithoutWebhooks(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	return started, started.InstallWebhooks(ctx)
}

func (c *ControlPlane) startWithoutWebhooks(ctx context.Context, name string, args ...string) (*Provider, error) {
	p, err := findProvider(name)
	if err != nil {
		return nil, err
	}
	return c.startOne(ctx, p, args...)
}

func (c *ControlPlane) startOne(ctx context.Context, p provider, args ...string) (*Provider, error) {
	objects, err := c.renderProvider(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := c.apply(ctx, objects.only("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")); err != nil {
		return nil, err
	}
	endpoint, err := c.endpoint(p.name)
	if err != nil {
		return nil, err
	}
	identity, err := c.accountOf(objects)
	if err != nil {
		return nil, fmt.Errorf("finding the ServiceAccount of %s: %w", p.name, err)
	}
	process, err := c.providerProcess(ctx, p, endpoint, identity)
	if err != nil {
		return nil, err
	}
	process.args = append(process.args, args...)
	if err := c.run(ctx, process); err != nil {
		return nil, err
	}
	started := &Provider{Process: process, User: identity.User, plane: c, webhooks: objects.only("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")}
	return started, started.webhooks.pointWebhooks(loopback(endpoint.port), endpoint.certificates.CABundle)
}

func (c *ControlPlane) providerProcess(ctx context.Context, p provider, endpoint *endpoint, identity Credentials) (*Process, error) {
	binary, err := c.builder.Path(ctx, p.name)
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
		"--webhook-port=" + strconv.Itoa(endpoint.port),
		"--webhook-cert-dir=" + endpoint.certificates.Dir,
		p.healthFlag + loopback(health),
		"--diagnostics-address=" + loopback(diagnostics),
		"--insecure-diagnostics",
	}
	return &Process{
		Name: p.name, path: binary, args: append(args, p.args...),
		ready: answers(http.DefaultTransport, "http://"+loopback(health)+"/readyz"),
	}, nil
}

// accountOf makes credentials of the ServiceAccount that the manifests run
// their manager as.
func (c *ControlPlane) accountOf(objects manifests) (Credentials, error) {
	deployments := objects.only("Deployment")
	if len(deployments) != 1 {
		return Credentials{}, fmt.Errorf("its manifests have %d Deployments, not one", len(deployments))
	}
	name, _, err := unstructured.NestedString(deployments[0].Object, "spec", "template", "spec", "serviceAccountName")
	if err != nil {
		return Credentials{}, err
	}
	return c.ServiceAccount(deployments[0].GetNamespace(), name)
}

// endpoint is where a provider's manager serves its webhooks. It is known
// before the manager runs, since definitions name it, too.
type endpoint struct {
	port         int
	certificates *Certificates
}

// endpoint returns the endpoint of a provider's webhooks.
func (c *ControlPlane) endpoint(name string) (*endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.endpoints[name]; known != nil {
		return known, nil
	}
	port, err := c.ports.take()
	if err != nil {
		return nil, err
	}
	certificates, err := c.newCertificates(name)
	if err != nil {
		return nil, err
	}
	c.endpoints[name] = &endpoint{port: port, certificates: certificates}
	return c.endpoints[name], nil
}

// renderProvider renders what a provider's own installation consists of.
func (c *ControlPlane) renderProvider(ctx context.Context, p provider) (manifests, error) {
	dir, err := c.builder.ModuleDir(ctx, p.family, p.module)
	if err != nil {
		return nil, err
	}
	return c.renderOnce(ctx, filepath.Join(dir, p.dir))
}

// InstallWebhooks makes the API server call the provider's webhooks.
func (p *Provider) InstallWebhooks(ctx context.Context) error {
	return p.plane.apply(ctx, p.webhooks)
}

// RemoveWebhooks makes the API server stop calling the provider's webhooks, as
// where somebody installed it without them.
func (p *Provider) RemoveWebhooks(ctx context.Context) error {
	for _, object := range p.webhooks {
		if err := p.plane.Client.Delete(ctx, object.DeepCopy()); err != nil {
			return fmt.Errorf("removing the webhooks of %s: %w", p.Name, err)
		}
	}
	if p.probe == nil {
		return nil
	}
	return Eventually(ctx, Soon, "the API server to forget the webhooks of "+p.Name, func(ctx context.Context) error {
		probe, ok := p.probe.DeepCopyObject().(client.Object)
		if !ok {
			return fmt.Errorf("%T is not an object", p.probe)
		}
		probe.SetNamespace(metav1.NamespaceDefault)
		return p.plane.Client.Create(ctx, probe, client.DryRunAll)
	})
}
