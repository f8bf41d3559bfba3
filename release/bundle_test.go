package main

import (
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const registryOfRelease = "registry.example.com/capi"

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command runs a program in a folder and returns all that it prints.
func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, output)
	}
	return string(output)
}

// program is the path of a program at its pinned version.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := (&release{root: ".."}).program(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// unpacked has in a folder what is text of a bundle: all but programs and images.
func unpacked(t *testing.T, dir string) {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	r := &release{root: root, version: "v0.1.0", registry: registryOfRelease, out: t.TempDir()}
	if err := r.makeManifests(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.fillTexts(dir); err != nil {
		t.Fatal(err)
	}
}

// pages are what users read in a bundle, by path.
func pages(t *testing.T, dir string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", "*.txt", "docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("there is no %s (error %v)", pattern, err)
		}
		for _, file := range found {
			name, err := filepath.Rel(dir, file)
			if err != nil {
				t.Fatal(err)
			}
			texts[name] = read(t, file)
		}
	}
	return texts
}

var (
	fenced  = regexp.MustCompile("(?ms)^```.*?^```$")
	linked  = regexp.MustCompile(`\]\(([^)\s#]+)`)
	applied = regexp.MustCompile("kubectl (?:apply|delete)[^\n`]* -k ([^\\s`)]+)")
	// named is a folder or file of deploy/ that a page speaks of.
	named   = regexp.MustCompile("`(deploy/[a-z0-9_./-]*)`")
	overlay = regexp.MustCompile("(?s)```yaml\n(apiVersion: kustomize[^`]*)```")
)

func TestLinksOfTheBundleLeadSomewhere(t *testing.T) {
	dir := t.TempDir()
	unpacked(t, dir)
	links := 0
	for page, text := range pages(t, dir) {
		for _, match := range linked.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(dir, path.Join(path.Dir(page), match[1]))); err != nil {
				t.Errorf("%s links to %s, which is not in the bundle", page, match[1])
			}
		}
	}
	if links == 0 {
		t.Error("no links are found")
	}
}

// What the pages speak of is there, but for those who change it.
func TestFoldersOfThePagesAreInTheBundle(t *testing.T) {
	dir := t.TempDir()
	unpacked(t, dir)
	found := map[string]bool{}
	for page, text := range pages(t, dir) {
		if page == "CONTRIBUTING.md" {
			continue
		}
		for _, match := range named.FindAllStringSubmatch(text, -1) {
			found[match[1]] = true
			if _, err := os.Stat(filepath.Join(dir, match[1])); err != nil {
				t.Errorf("%s speaks of %s, which is not in the bundle", page, match[1])
			}
		}
	}
	for _, name := range []string{"deploy/default", "deploy/protection", "deploy/monitoring/rules.yaml"} {
		if !found[name] {
			t.Errorf("no page speaks of %s", name)
		}
	}
}

func TestCommandsOfThePagesApplyWhatIsInTheBundle(t *testing.T) {
	dir := t.TempDir()
	unpacked(t, dir)
	command(t, dir, "./load.sh", "--no-push", "registry.corp.example/capi")
	kustomize := program(t, "kustomize")
	rendered := map[string]string{}
	for _, text := range pages(t, dir) {
		for _, match := range applied.FindAllStringSubmatch(text, -1) {
			if rendered[match[1]] == "" {
				rendered[match[1]] = command(t, dir, kustomize, "build", match[1])
			}
		}
	}
	for folder, want := range map[string]string{
		"kubectl":           "image: registry.corp.example/capi/capv-static-ip:v0.1.0\n",
		"deploy/default":    "image: " + registryOfRelease + "/capv-static-ip:v0.1.0\n",
		"deploy/protection": "name: capv-static-ip-protect-bindings\n",
		"deploy/tenancy":    "name: capv-static-ip-shared-pools\n",
	} {
		if !strings.Contains(rendered[folder], want) {
			t.Errorf("%s renders %q, without %q", folder, rendered[folder], want)
		}
	}
}

func TestOverlaysOfThePagesRenderInTheBundle(t *testing.T) {
	dir := t.TempDir()
	unpacked(t, dir)
	command(t, dir, "./load.sh", "--no-push", "registry.corp.example/capi")
	kustomize := program(t, "kustomize")
	var components []string
	for page, text := range pages(t, dir) {
		for _, match := range overlay.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(match[1], "../deploy/default\n") {
				continue
			}
			components = append(components, regexp.MustCompile(`components:\n- \.\./(\S+)`).FindStringSubmatch(match[1])[1])
			// One page tells to put it there.
			write(t, filepath.Join(dir, "overlay", "ca.crt"), "a certificate")
			for base, registry := range map[string]string{"../deploy/default": registryOfRelease, "../kubectl": "registry.corp.example/capi"} {
				write(t, filepath.Join(dir, "overlay", "kustomization.yaml"), strings.Replace(match[1], "../deploy/default\n", base+"\n", 1))
				if text := command(t, dir, kustomize, "build", "overlay"); !strings.Contains(text, "image: "+registry+"/capv-static-ip:v0.1.0\n") {
					t.Errorf("the overlay of %s on %s has no image of %s:\n%s", page, base, registry, text)
				}
			}
		}
	}
	slices.Sort(components)
	if want := []string{"deploy/client-ca", "deploy/monitoring", "deploy/namespaced"}; !slices.Equal(components, want) {
		t.Errorf("pages have overlays with %q, want %q", components, want)
	}
}

// imageIn is the image of the Deployment among objects.
func imageIn(t *testing.T, text string) string {
	t.Helper()
	for _, document := range strings.Split(text, "\n---\n") {
		var deployment struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct{ Containers []struct{ Image string } }
				}
			}
		}
		if err := yaml.Unmarshal([]byte(document), &deployment); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if deployment.Kind == "Deployment" {
			return deployment.Spec.Template.Spec.Containers[0].Image
		}
	}
	t.Fatal("there is no Deployment")
	return ""
}

// documentOf reads the last document of a file.
func documentOf(t *testing.T, path string, into any) {
	t.Helper()
	documents := strings.Split(read(t, path), "---\n")
	if err := yaml.Unmarshal([]byte(documents[len(documents)-1]), into); err != nil {
		t.Fatalf("%v in %s:\n%s", err, path, documents[len(documents)-1])
	}
}

// CDPATH, and a path with what is special in a shell, in YAML and in a URL, must not
// matter, nor what a registry is called.
func TestLoadWritesConfigurationsForEveryRegistry(t *testing.T) {
	home := filepath.Join(t.TempDir(), `a b: 50% #1? "c" ${HOME}`)
	dir := filepath.Join(home, "bundle")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	unpacked(t, dir)
	elsewhere := t.TempDir()
	if err := os.Mkdir(filepath.Join(elsewhere, "bundle"), 0o750); err != nil {
		t.Fatal(err)
	}
	kustomize, clusterctl := program(t, "kustomize"), program(t, "clusterctl")
	for _, registry := range []string{"registry.corp.example/capi", "registry.corp.example:5000/a/b", "[::1]:5000", "127.0.0.1:5000/corp"} {
		t.Run(registry, func(t *testing.T) {
			command(t, home, "env", "CDPATH="+elsewhere, "sh", "bundle/load.sh", "--no-push", registry+"/")

			image := registry + "/capv-static-ip:v0.1.0"
			if got := imageIn(t, command(t, dir, kustomize, "build", "kubectl")); got != image {
				t.Errorf("kubectl installs %s, want %s", got, image)
			}
			if got := imageIn(t, command(t, dir, "env", "CLUSTERCTL_DISABLE_VERSIONCHECK=true", clusterctl, "generate", "provider", "--addon=capv-static-ip", "--config=clusterctl.yaml")); got != image {
				t.Errorf("clusterctl installs %s, want %s", got, image)
			}
			var values struct{ Image struct{ Registry string } }
			if documentOf(t, filepath.Join(dir, "values-airgap.yaml"), &values); values.Image.Registry != registry {
				t.Errorf("Helm is given registry %q", values.Image.Registry)
			}
			operatorInstalls(t, dir, registry)
			certManagerIsIn(t, dir)
		})
	}
	if left, err := os.ReadDir(filepath.Join(elsewhere, "bundle")); err != nil || len(left) > 0 {
		t.Errorf("it has written elsewhere: %v (error %v)", left, err)
	}
}

func operatorInstalls(t *testing.T, dir, registry string) {
	t.Helper()
	image := registry + "/capv-static-ip:v0.1.0"
	var configMap struct{ Data map[string]string }
	documents := strings.Split(read(t, filepath.Join(dir, "operator", "provider-airgap.yaml")), "\n---\n")
	if err := yaml.Unmarshal([]byte(documents[1]), &configMap); err != nil {
		t.Fatal(err)
	}
	if got := imageIn(t, withDefaults.ReplaceAllString(configMap.Data["components"], "$1")); got != image {
		t.Errorf("the operator installs %s, want %s", got, image)
	}
	var provider struct {
		Spec struct {
			FetchConfig struct{ OCI string }
			Deployment  struct{ Containers []struct{ ImageURL string } }
		}
	}
	documentOf(t, filepath.Join(dir, "operator", "provider-oci-airgap.yaml"), &provider)
	if got, want := provider.Spec.FetchConfig.OCI, registry+"/capv-static-ip-provider"; got != want {
		t.Errorf("the operator pulls %s, want %s", got, want)
	}
	if got := provider.Spec.Deployment.Containers; len(got) != 1 || got[0].ImageURL != image {
		t.Errorf("the operator runs %v, want %s", got, image)
	}
}

// withDefaults are the variables of clusterctl.
var withDefaults = regexp.MustCompile(`\$\{[A-Z_]+:=([^}]*)\}`)

// clusterctl reads that file only where there is no cert-manager.
func certManagerIsIn(t *testing.T, dir string) {
	t.Helper()
	var config struct {
		CertManager struct{ URL, Version string } `json:"cert-manager"`
	}
	documentOf(t, filepath.Join(dir, "clusterctl.yaml"), &config)
	location, err := url.Parse(config.CertManager.URL)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "cert-manager", config.CertManager.Version, "cert-manager.yaml"); location.Path != want {
		t.Errorf("clusterctl looks for cert-manager in %s, want %s", location.Path, want)
	}
}

func TestLoadRefusesWhatIsNoRegistry(t *testing.T) {
	dir := t.TempDir()
	unpacked(t, dir)
	for _, registry := range []string{"https://registry.corp.example/capi", "registry.corp.example/a b", "registry.corp.example/a|b", `registry.corp.example/"`, "registry.corp.example/a&b", ""} {
		cmd := exec.CommandContext(t.Context(), "./load.sh", "--no-push", registry)
		cmd.Dir = dir
		if output, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 || len(output) == 0 {
			t.Errorf("%q: got error %v, and %q", registry, err, output)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "clusterctl.yaml")); err == nil {
		t.Error("it has written a configuration")
	}
}
