package harness

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// SystemNamespace is where deploy/ puts the manager.
	SystemNamespace = "capv-static-ip-system"
	// managerAccount is the ServiceAccount that deploy/ runs the manager as.
	managerAccount = "capv-static-ip-manager"
)

// Installation is what deploy/ brings to a cluster, without the pods: the
// rights of the manager's ServiceAccount and the webhook configuration, which
// calls the managers that StartManager starts.
type Installation struct {
	// Forwarder stands for the webhook's Service: the API server calls it, and
	// it calls one of the managers that run.
	Forwarder *Forwarder
	// Certificates are what every manager serves with; nil where cert-manager
	// issues them.
	Certificates *Certificates

	plane          *ControlPlane
	objects        manifests
	identity       Credentials
	certificateDir string
	limits         limits

	mu sync.Mutex
	// binary is the manager's program, and clocked the one with a clock of its own.
	binary, clocked string
	started         int
}

// Install applies deploy/default. No manager runs yet, so machines that need an
// address are refused until one does.
func (c *ControlPlane) Install(ctx context.Context) (*Installation, error) {
	return c.InstallFrom(ctx, filepath.Join(c.builder.Root, "deploy", "default"))
}

// InstallFrom is Install with an overlay on deploy/default.
func (c *ControlPlane) InstallFrom(ctx context.Context, dir string) (*Installation, error) {
	rendered, err := c.render(ctx, dir)
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
	identity, err := c.ServiceAccount(SystemNamespace, managerAccount)
	if err != nil {
		return nil, err
	}
	limits, err := limitsOf(rendered)
	if err != nil {
		return nil, err
	}
	objects := rendered.only(applied...)
	if err := objects.pointWebhooks(forwarder.Address(), certificates.CABundle); err != nil {
		return nil, err
	}
	if err := c.apply(ctx, objects); err != nil {
		return nil, err
	}
	installation := &Installation{
		Forwarder: forwarder, Certificates: certificates, certificateDir: certificates.Dir,
		plane: c, objects: objects, identity: identity, limits: limits,
	}
	return installation, installation.awaitWebhook(ctx)
}

// renderOurs renders what we ship.
func (c *ControlPlane) renderOurs(ctx context.Context) (manifests, error) {
	return c.render(ctx, filepath.Join(c.builder.Root, "deploy", "default"))
}

// ApplyFolder applies what a folder of ours, named from the project's, renders to.
func (c *ControlPlane) ApplyFolder(ctx context.Context, path ...string) error {
	objects, err := c.render(ctx, filepath.Join(append([]string{c.builder.Root}, path...)...))
	if err != nil {
		return err
	}
	return c.apply(ctx, objects)
}

// awaitWebhook waits until the API server has noticed the webhook. As no
// manager runs yet, it then refuses a machine that needs an address.
func (i *Installation) awaitWebhook(ctx context.Context) error {
	return Eventually(ctx, Soon, "the API server to call the webhook", func(ctx context.Context) error {
		err := i.plane.Client.Create(ctx, Machine(metav1.NamespaceDefault, "probe"), client.DryRunAll)
		switch {
		case apierrors.IsInternalError(err):
			return nil
		case err == nil:
			return errors.New("a machine was created without a call")
		default:
			return err
		}
	})
}

// nextManager returns the path of the manager's program, which is built for the
// first replica, and the name of the next replica.
func (i *Installation) nextManager(ctx context.Context, ownClock bool) (binary, name string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	path, build := &i.binary, i.plane.builder.Manager
	if ownClock {
		path, build = &i.clocked, i.plane.builder.ManagerWithClock
	}
	if *path == "" {
		if *path, err = build(ctx); err != nil {
			return "", "", err
		}
	}
	i.started++
	return *path, "capv-static-ip-" + strconv.Itoa(i.started), nil
}

// Identity returns the credentials of the manager's ServiceAccount.
func (i *Installation) Identity() Credentials { return i.identity }

// Apply applies deploy/default again, for a test that took something away.
func (i *Installation) Apply(ctx context.Context) error {
	return i.plane.apply(ctx, i.objects)
}

// RemoveWebhook removes the webhook configuration: what is created afterwards
// is created as if we were not installed.
func (i *Installation) RemoveWebhook(ctx context.Context) error {
	for _, object := range i.objects.only("MutatingWebhookConfiguration") {
		if err := i.plane.Client.Delete(ctx, object.DeepCopy()); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("removing the webhook configuration: %w", err)
		}
	}
	return Eventually(ctx, Soon, "the API server to forget the webhook", func(ctx context.Context) error {
		return i.plane.Client.Create(ctx, Machine(metav1.NamespaceDefault, "probe"), client.DryRunAll)
	})
}

// CreateNamespace makes a namespace with a fresh name that begins with prefix.
func (c *ControlPlane) CreateNamespace(ctx context.Context, prefix string) (string, error) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-"}}
	if err := c.Client.Create(ctx, namespace); err != nil {
		return "", fmt.Errorf("creating a namespace for %s: %w", prefix, err)
	}
	return namespace.Name, nil
}
