package install

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/removal"
)

// withComponent is a folder with deploy/default and a component of ours.
func (p project) withComponent(name string) string {
	p.Helper()
	dir := p.TempDir()
	deploy, err := filepath.Rel(dir, p.path("deploy"))
	if err != nil {
		p.Fatal(err)
	}
	text := fmt.Sprintf("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%[1]s/default]\ncomponents: [%[1]s/%[2]s]\n", deploy, name)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	return dir
}

// kubectl static-ip uninstall finds what is installed by kind and label.
func TestUninstallFindsWhateverIsInstalled(t *testing.T) {
	p := newProject(t)
	for name, objects := range map[string][]*unstructured.Unstructured{
		"deploy/default":        read(t, p.rendered("deploy/default")),
		"deploy/clusterctl":     read(t, p.rendered("deploy/clusterctl")),
		"deploy/protection":     read(t, p.run("kustomize", "build", "deploy/protection")),
		"deploy/network-policy": read(t, p.run("kustomize", "build", "deploy/network-policy")),
		"deploy/monitoring":     read(t, p.run("kustomize", "build", p.withComponent("monitoring"))),
	} {
		for _, object := range objects {
			if !slices.Contains(removal.InstalledKinds(), object.GroupVersionKind().GroupKind()) {
				t.Errorf("%s: objects of the kind of %s are not looked for", name, title(object))
			}
			if object.GetLabels()[installation.AppLabel] != installation.App {
				t.Errorf("%s: %s is not labelled as ours", name, title(object))
			}
		}
	}
}
