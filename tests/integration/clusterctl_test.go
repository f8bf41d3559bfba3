package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/programs"
)

// coreVersion is any that the series in Cluster API's own metadata.yaml have.
const coreVersion = "v1.13.0"

// addonUser installs with clusterctl, from a repository on this machine.
type addonUser struct {
	target
	program, config string
	first, second   string
}

// newAddonUser makes a repository with two versions of ours, and notes that Cluster
// API is there, without which clusterctl would install that as well.
func newAddonUser(on target) addonUser {
	on.Helper()
	builder, err := programs.NewBuilder(io.Discard)
	if err != nil {
		on.Fatal(err)
	}
	u := addonUser{target: on, first: "v0.1.0", second: "v0.1.1"}
	if u.program, err = builder.Path(on.Context(), "clusterctl"); err != nil {
		on.Fatal(err)
	}
	core, err := builder.ModuleDir(on.Context(), "cluster-api", "sigs.k8s.io/cluster-api")
	if err != nil {
		on.Fatal(err)
	}
	dir := on.TempDir()
	u.config = filepath.Join(dir, "clusterctl.yaml")
	components := u.run(u.kubectl, "kustomize", "deploy/clusterctl")
	for _, version := range []string{u.first, u.second} {
		image := []byte("image: registry.example.org/capi/capv-static-ip:" + version + "\n")
		u.publish(filepath.Join(dir, "addon-capv-static-ip", version), "addon-components.yaml",
			bytes.Replace(components, []byte("image: capv-static-ip:dev\n"), image, 1), filepath.Join(u.plane.Root(), "metadata.yaml"))
	}
	u.publish(filepath.Join(dir, "cluster-api", coreVersion), "core-components.yaml",
		[]byte("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: capi-system\n"), filepath.Join(core, "metadata.yaml"))
	u.write(u.config, fmt.Sprintf(`providers:
- {name: capv-static-ip, type: AddonProvider, url: %[1]s/addon-capv-static-ip/latest/addon-components.yaml}
- {name: cluster-api, type: CoreProvider, url: %[1]s/cluster-api/latest/core-components.yaml}
images:
  addon-capv-static-ip:
    repository: mirror.example.org/team
`, dir))
	u.noteCore()
	return u
}

func (u addonUser) write(path, content string) {
	u.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		u.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		u.Fatal(err)
	}
}

// publish writes a version of a provider.
func (u addonUser) publish(dir, file string, components []byte, metadata string) {
	u.Helper()
	content, err := os.ReadFile(metadata)
	if err != nil {
		u.Fatal(err)
	}
	u.write(filepath.Join(dir, file), string(components))
	u.write(filepath.Join(dir, "metadata.yaml"), string(content))
}

func (u addonUser) noteCore() {
	u.Helper()
	provider := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": clusterctlv1.GroupVersion.String(), "kind": "Provider",
		"metadata": map[string]any{
			"namespace": "default", "name": "cluster-api",
			"labels": map[string]any{
				"clusterctl.cluster.x-k8s.io": "", "clusterctl.cluster.x-k8s.io/core": "inventory",
				"cluster.x-k8s.io/provider": "cluster-api",
			},
		},
		"providerName": "cluster-api", "type": "CoreProvider", "version": coreVersion,
	}}
	if err := u.plane.Client.Create(u.Context(), provider); err != nil {
		u.Fatal(err)
	}
}

func (u addonUser) clusterctl(args ...string) string {
	u.Helper()
	return string(u.run(u.program, append(args, "--config="+u.config)...))
}

// installed checks that a version is there, and returns the webhook configuration.
func (u addonUser) installed(version string) *admissionv1.MutatingWebhookConfiguration {
	u.Helper()
	provider := &unstructured.Unstructured{}
	provider.SetAPIVersion(clusterctlv1.GroupVersion.String())
	provider.SetKind("Provider")
	u.get(client.ObjectKey{Namespace: harness.SystemNamespace, Name: "addon-capv-static-ip"}, provider)
	if provider.Object["version"] != version || provider.Object["type"] != "AddonProvider" {
		u.Errorf("clusterctl notes %v in version %v, want an AddonProvider in %s", provider.Object["type"], provider.Object["version"], version)
	}
	found := &unstructured.Unstructured{}
	found.SetAPIVersion(appsv1.SchemeGroupVersion.String())
	found.SetKind("Deployment")
	u.get(client.ObjectKey{Namespace: harness.SystemNamespace, Name: "capv-static-ip-manager"}, found)
	deployment := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, deployment); err != nil {
		u.Fatal(err)
	}
	if got, want := deployment.Spec.Template.Spec.Containers[0].Image, "mirror.example.org/team/capv-static-ip:"+version; got != want {
		u.Errorf("the image is %s, want %s", got, want)
	}
	if *deployment.Spec.Replicas != 2 {
		u.Errorf("there are to be %d replicas", *deployment.Spec.Replicas)
	}
	configuration := &admissionv1.MutatingWebhookConfiguration{}
	u.get(client.ObjectKey{Name: "capv-static-ip-mutating-webhook-configuration"}, configuration)
	return configuration
}

func (u addonUser) get(key client.ObjectKey, object client.Object) {
	u.Helper()
	if err := u.plane.Client.Get(u.Context(), key, object); err != nil {
		u.Fatal(err)
	}
}

func TestClusterctlInstallsUpgradesAndDeletes(t *testing.T) {
	t.Parallel()
	u := newAddonUser(newTarget(t))

	u.clusterctl("init", "--addon=capv-static-ip:"+u.first)
	before := u.installed(u.first)

	if plan := u.clusterctl("upgrade", "plan"); !strings.Contains(plan, u.second) {
		t.Errorf("clusterctl offers no %s:\n%s", u.second, plan)
	}
	u.clusterctl("upgrade", "apply", "--addon="+harness.SystemNamespace+"/capv-static-ip:"+u.second)
	after := u.installed(u.second)
	if after.UID == before.UID {
		t.Error("clusterctl kept the webhook configuration in the upgrade: say so in docs/install.md")
	}

	u.clusterctl("delete", "--addon=capv-static-ip")
	err := u.plane.Client.Get(t.Context(), client.ObjectKeyFromObject(after), &admissionv1.MutatingWebhookConfiguration{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("after its deletion, the webhook configuration: error %v", err)
	}
}
