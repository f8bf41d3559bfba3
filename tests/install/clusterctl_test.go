package install

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// repository makes a repository of one version for clusterctl, and returns its
// configuration, which begins with these variables.
func (p project) repository(variables ...string) string {
	p.Helper()
	dir := p.TempDir()
	version := filepath.Join(dir, "addon-capv-static-ip", "v0.1.0")
	metadata, err := os.ReadFile(p.path("metadata.yaml"))
	if err != nil {
		p.Fatal(err)
	}
	config := filepath.Join(dir, "clusterctl.yaml")
	components := filepath.Join(version, "addon-components.yaml")
	lines := slices.Concat(variables, []string{"providers:", "- name: capv-static-ip", "  type: AddonProvider", "  url: " + components, ""})
	if err := os.MkdirAll(version, 0o750); err != nil {
		p.Fatal(err)
	}
	for path, content := range map[string][]byte{
		filepath.Join(version, "metadata.yaml"): metadata,
		components:                              p.rendered("deploy/clusterctl"),
		config:                                  []byte(strings.Join(lines, "\n")),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			p.Fatal(err)
		}
	}
	return config
}

// provider is what clusterctl would install.
func (p project) provider(args ...string) []*unstructured.Unstructured {
	p.Helper()
	return read(p.T, p.run("clusterctl", append([]string{"generate", "provider", "--addon", "capv-static-ip"}, args...)...))
}

func deployment(t *testing.T, objects []*unstructured.Unstructured) *appsv1.Deployment {
	t.Helper()
	i := slices.IndexFunc(objects, func(object *unstructured.Unstructured) bool { return object.GetKind() == "Deployment" })
	if i < 0 {
		t.Fatal("there is no Deployment")
	}
	deployment := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(objects[i].Object, deployment, true); err != nil {
		t.Fatal(err)
	}
	return deployment
}

func TestClusterctlInstallsTheSameAsKubectl(t *testing.T) {
	p := newProject(t)
	same(t, p.provider("--config", p.repository()), read(t, p.rendered("deploy/default")))
}

func TestEverythingForClusterctlIsLabelled(t *testing.T) {
	p := newProject(t)
	for _, object := range read(t, p.rendered("deploy/clusterctl")) {
		if got := object.GetLabels()["cluster.x-k8s.io/provider"]; got != "addon-capv-static-ip" {
			t.Errorf("%s is labelled as of provider %q", title(object), got)
		}
	}
}

// clusterctl makes objects in this order, after those of cert-manager.
func TestWebhookConfigurationIsMadeFirstByClusterctl(t *testing.T) {
	p := newProject(t)
	config := p.repository()
	for what, objects := range map[string][]*unstructured.Unstructured{
		"the file":            read(t, p.rendered("deploy/clusterctl")),
		"what clusterctl has": p.provider("--config", config),
	} {
		var kinds []string
		for _, object := range objects {
			if kind := object.GetKind(); kind != "Issuer" && kind != "Certificate" {
				kinds = append(kinds, kind)
			}
		}
		if want := []string{"Namespace", "MutatingWebhookConfiguration"}; !slices.Equal(kinds[:2], want) {
			t.Errorf("%s begins with %q, want %q", what, kinds[:2], want)
		}
	}
}

func TestVariablesOfClusterctlBecomeFlags(t *testing.T) {
	p := newProject(t)
	config := p.repository(
		`CAPV_STATIC_IP_DIAGNOSTICS_ADDRESS: ":8080"`, `CAPV_STATIC_IP_INSECURE_DIAGNOSTICS: "true"`,
		`CAPV_STATIC_IP_SYNC_PERIOD: 3m`, `CAPV_STATIC_IP_ORPHAN_GRACE_PERIOD: 4m`,
		`CAPV_STATIC_IP_REUSE_AFTER: 5m`, `CAPV_STATIC_IP_CAPACITY_WARNINGS: "false"`, `CAPV_STATIC_IP_LOG_LEVEL: "6"`,
	)
	container := deployment(t, p.provider("--config", config)).Spec.Template.Spec.Containers[0]
	want := []string{
		"--leader-elect=true", "--diagnostics-address=:8080", "--insecure-diagnostics=true",
		"--sync-period=3m", "--orphan-grace-period=4m", "--reuse-after=5m", "--capacity-warnings=false", "--v=6",
	}
	if !slices.Equal(container.Args, want) {
		t.Errorf("got arguments %q, want %q", container.Args, want)
	}
}

// clusterctl finds our container by the name that providers give it, and keeps of an
// image what comes last: that has to tell us from others.
func TestImagesOfClusterctlCanComeFromAnotherRegistry(t *testing.T) {
	p := newProject(t)
	config := p.repository("images:", "  all:", "    repository: mirror.example.org/capi")
	container := deployment(t, p.provider("--config", config)).Spec.Template.Spec.Containers[0]
	if want := "mirror.example.org/capi/capv-static-ip:v0.1.0"; container.Name != "manager" || container.Image != want {
		t.Errorf("container %s has image %s, want manager with %s", container.Name, container.Image, want)
	}
}

func TestClusterctlInstallsIntoAnotherNamespace(t *testing.T) {
	const namespace = "elsewhere"
	p := newProject(t)
	for _, object := range p.provider("--config", p.repository(), "--target-namespace", namespace) {
		switch kind := object.GetKind(); kind {
		case "Namespace":
			if object.GetName() != namespace {
				t.Errorf("it makes Namespace %s", object.GetName())
			}
		case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
			webhooks, _, err := unstructured.NestedSlice(object.Object, "webhooks")
			if err != nil || len(webhooks) == 0 {
				t.Fatalf("reading webhooks: %v, error %v", webhooks, err)
			}
			for _, webhook := range webhooks {
				service, _, err := unstructured.NestedString(webhook.(map[string]any), "clientConfig", "service", "namespace")
				if err != nil || service != namespace {
					t.Errorf("it calls a Service in %q (error %v)", service, err)
				}
			}
		case "Certificate":
			names, _, err := unstructured.NestedStringSlice(object.Object, "spec", "dnsNames")
			if err != nil || object.GetName() == "capv-static-ip-serving-cert" && !slices.Contains(names, fmt.Sprintf("capv-static-ip-webhook.%s.svc", namespace)) {
				t.Errorf("the certificate is for %q (error %v)", names, err)
			}
		}
	}
}
