//go:build heavy

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// others are the providers of a stack, of which its user has repositories.
var others = []struct{ label, name, kind string }{
	{"cluster-api", "cluster-api", "CoreProvider"},
	{"bootstrap-kubeadm", "kubeadm", "BootstrapProvider"},
	{"control-plane-kubeadm", "kubeadm", "ControlPlaneProvider"},
	{"infrastructure-vsphere", "vsphere", "InfrastructureProvider"},
	{"ipam-metal3", "metal3", "IPAMProvider"},
	{"ipam-in-cluster", "in-cluster", "IPAMProvider"},
}

// clusterctlUser works with clusterctl, and reaches nothing but files of this machine.
type clusterctlUser struct {
	*testing.T
	stack          *stack.Stack
	bundle, config string
}

// newClusterctlUser adds what the bundle has to a configuration that is there already.
func newClusterctlUser(t *testing.T, on *stack.Stack, bundle string) clusterctlUser {
	t.Helper()
	u := clusterctlUser{T: t, stack: on, bundle: bundle, config: filepath.Join(t.TempDir(), "clusterctl.yaml")}
	content, err := os.ReadFile(filepath.Join(bundle, "clusterctl.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]any{}
	if err := yaml.UnmarshalStrict(content, &config); err != nil {
		t.Fatal(err)
	}
	providers, _ := config["providers"].([]any)
	repositories := t.TempDir()
	for _, other := range others {
		version := filepath.Join(repositories, other.label, "v1.0.0")
		components := filepath.Join(version, "components.yaml")
		u.write(components, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+other.label+"}\n")
		u.write(filepath.Join(version, "metadata.yaml"), "apiVersion: clusterctl.cluster.x-k8s.io/v1alpha3\n"+
			"kind: Metadata\nreleaseSeries: [{major: 1, minor: 0, contract: v1beta2}]\n")
		providers = append(providers, map[string]any{"name": other.name, "type": other.kind, "url": components})
	}
	config["providers"] = providers
	merged, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	u.write(u.config, string(merged))
	return u
}

func (u clusterctlUser) write(path, content string) {
	u.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		u.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		u.Fatal(err)
	}
}

func (u clusterctlUser) run(args ...string) string {
	u.Helper()
	output, err := u.stack.Clusterctl(u.Context(), append(args, "--config="+u.config)...)
	if err != nil {
		u.Fatal(err)
	}
	return output
}

// publishNext puts the next version beside that of the bundle.
func (u clusterctlUser) publishNext() {
	u.Helper()
	versions := filepath.Join(u.bundle, "addon-capv-static-ip")
	for _, name := range []string{"addon-components.yaml", "metadata.yaml"} {
		content, err := os.ReadFile(filepath.Join(versions, bundledVersion, name))
		if err != nil {
			u.Fatal(err)
		}
		u.write(filepath.Join(versions, nextVersion, name), strings.ReplaceAll(string(content), bundledVersion, nextVersion))
	}
}

// listImages lists them where cert-manager would have to be installed as well.
func (u clusterctlUser) listImages(image string) {
	u.Helper()
	args := []string{"init", "list-images", "--addon=capv-static-ip", "--config=" + u.config}
	manifest := filepath.Join(u.bundle, "cert-manager", "v1.21.2", "cert-manager.yaml")
	if _, err := u.stack.Clusterctl(u.Context(), args...); err == nil || !strings.Contains(err.Error(), manifest) {
		u.Errorf("without a manifest of cert-manager: got error %v, want one that names %s", err, manifest)
	}
	u.write(manifest, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: cert-manager}\n"+
		"spec: {template: {spec: {containers: [{name: x, image: \"registry.example.com/cert-manager:v1.21.2\"}]}}}\n")
	if got := strings.Fields(u.run(args[:3]...)); strings.Join(got, " ") != image+" registry.example.com/cert-manager:v1.21.2" {
		u.Errorf("it lists %q", got)
	}
}

func (u clusterctlUser) webhooks() (*admissionv1.MutatingWebhookConfiguration, error) {
	found := &admissionv1.MutatingWebhookConfiguration{}
	return found, u.stack.Plane.Client.Get(u.Context(), client.ObjectKey{Name: "capv-static-ip-mutating-webhook-configuration"}, found)
}

// stackWithoutUs is one beside the shared stack, on which nothing of ours is installed.
func stackWithoutUs(t *testing.T) *stack.Stack {
	t.Helper()
	options := stackOptions()
	options.VCenter = shared.VCenter
	options.WithoutKubeadm, options.WithoutManager, options.Protected = true, true, false
	// The test's own context ends before its cleanup, which still looks around.
	on, err := stack.Start(context.WithoutCancel(t.Context()), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			on.Plane.DumpLogs(os.Stderr, 40)
		}
		if err := on.Stop(); err != nil {
			t.Error(err)
		}
	})
	return on
}

// startManagers starts what the Deployment that was installed asks for.
func (u clusterctlUser) startManagers() {
	u.Helper()
	ctx := context.WithoutCancel(u.Context())
	var err error
	if u.stack.Installation, err = u.stack.Plane.Installed(ctx); err != nil {
		u.Fatal(err)
	}
	for range 2 {
		if _, err := u.stack.StartManager(ctx); err != nil {
			u.Fatal(err)
		}
	}
}

func TestClusterctlLivesOnTheBundleAlone(t *testing.T) {
	on := stackWithoutUs(t)
	dir, registry := bundle(t, on.Plane)
	u := newClusterctlUser(t, on, dir)
	u.listImages(registry + "/capv-static-ip:" + bundledVersion)

	u.run("init", "--addon=capv-static-ip")
	u.startManagers()
	s := newScene(t, on)
	template := s.template("workers", harness.OfMetal3.Ask("pool"))
	workers := s.workers(template, "md-0", 1)
	s.create(s.pool(harness.OfMetal3, "pool", 10, 60), template, workers)
	s.nodes(workers)
	s.step("the first machine has its address")

	u.publishNext()
	if plan := u.run("upgrade", "plan"); !strings.Contains(plan, nextVersion) {
		t.Errorf("clusterctl offers no %s:\n%s", nextVersion, plan)
	}
	u.upgradeWhileItScales(s, func(replicas int32) { s.scale(workers, replicas) })
	s.nodes(workers)
	s.step("all machines of the upgrade have their addresses")

	s.delete(workers)
	s.gone(workers, provisioned)
	s.awaitFree()
	u.run("delete", "--addon=capv-static-ip")
	if _, err := u.webhooks(); !apierrors.IsNotFound(err) {
		t.Errorf("after clusterctl delete, the webhook configuration: error %v", err)
	}
	u.run("init", "--addon=capv-static-ip:"+bundledVersion, "--target-namespace=elsewhere")
	configuration, err := u.webhooks()
	if err != nil {
		t.Fatal(err)
	}
	for _, webhook := range configuration.Webhooks {
		if got := webhook.ClientConfig.Service; got == nil || got.Namespace != "elsewhere" {
			t.Errorf("webhook %s calls %v, want a Service in the other namespace", webhook.Name, got)
		}
	}
}

// upgradeWhileItScales upgrades while more and more machines are made.
func (u clusterctlUser) upgradeWhileItScales(s *scene, scale func(replicas int32)) {
	u.Helper()
	following, stop := context.WithCancel(u.Context())
	defer stop()
	followed := make(chan error, 1)
	go func() { followed <- u.stack.Installation.Follow(following, u.stack.Managers) }()
	upgraded := make(chan error, 1)
	go func() {
		_, err := u.stack.Clusterctl(u.Context(), "upgrade", "apply", "--config="+u.config,
			"--addon="+harness.SystemNamespace+"/capv-static-ip:"+nextVersion)
		upgraded <- err
	}()
	ticker := time.NewTicker(150 * time.Millisecond)
	defer ticker.Stop()
	for replicas := int32(2); ; {
		select {
		case err := <-upgraded:
			if err != nil {
				u.Fatal(err)
			}
			s.step("upgraded while there were to be %d machines", replicas-1)
			s.eventually(provisioned, "the new version to serve", func(ctx context.Context) error {
				return u.stack.Plane.Client.Create(ctx, harness.Machine(s.ns, "probe", harness.WithPool("pool")), client.DryRunAll)
			})
			stop()
			if err := <-followed; err != nil {
				u.Error(err)
			}
			return
		case <-ticker.C:
			if replicas < 40 {
				scale(replicas)
				replicas++
			}
		}
	}
}
