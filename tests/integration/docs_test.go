package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cluster-api/controllers/external"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/docs"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/programs"
)

// readByOthers are the kinds in the documentation that the API server here does
// not serve: files of its own start and of clients; kustomize's, which have tests
// of their own; and the Prometheus operator's.
var readByOthers = []string{"AdmissionConfiguration", "Config", "Kustomization", "PodMonitor"}

func manifestsOf(t *testing.T, page docs.Page) []*unstructured.Unstructured {
	t.Helper()
	objects, err := page.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func TestManifestsInTheDocumentationAreAccepted(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pages, err := docs.Pages(s.env.Root())
	if err != nil {
		t.Fatal(err)
	}
	// A field that does not exist is an error.
	c := client.WithFieldValidation(s.env.Client, metav1.FieldValidationStrict)
	var passedOver []string
	accepted := 0
	for _, page := range pages {
		for _, object := range manifestsOf(t, page) {
			if slices.Contains(readByOthers, object.GetKind()) {
				passedOver = append(passedOver, object.GetKind())
				continue
			}
			if object.GetNamespace() != "" {
				object.SetNamespace(s.ns)
			}
			if err := c.Create(t.Context(), object, client.DryRunAll); err != nil {
				t.Errorf("%s: %s %s is refused: %v", page.Path, object.GetKind(), object.GetName(), err)
			}
			accepted++
		}
	}
	slices.Sort(passedOver)
	if passedOver = slices.Compact(passedOver); !slices.Equal(passedOver, readByOthers) {
		t.Errorf("passed over %q, want %q", passedOver, readByOthers)
	}
	if accepted == 0 {
		t.Error("no manifests are found")
	}
}

// The overlays are where the pages say that they have to be: beside deploy.
func TestOverlaysInTheDocumentationRender(t *testing.T) {
	t.Parallel()
	for page, test := range map[string]struct {
		// beside is a file that the page tells to put there, too.
		beside string
		want   []string
	}{
		"docs/install.md": {want: []string{"- --namespace=team-a\n", "kind: Role\n", "- team-a\n"}},
		"docs/security.md": {beside: "ca.crt", want: []string{
			"- --webhook-client-ca-file=", "name: capv-static-ip-webhook-client-ca\n  namespace: capv-static-ip-system\n",
			"- configMap:\n          name: capv-static-ip-webhook-client-ca\n",
		}},
	} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			dir := s.overlayOf(page)
			if test.beside != "" {
				if err := os.WriteFile(filepath.Join(dir, test.beside), []byte("a certificate"), 0o600); err != nil {
					t.Fatal(err)
				}
			}

			rendered := shell(t, s.env, "", "kubectl kustomize "+dir)

			for _, want := range test.want {
				if !strings.Contains(rendered, want) {
					t.Errorf("%q is not in what it renders:\n%s", want, rendered)
				}
			}
		})
	}
}

// overlayOf puts the overlay of a page into a folder.
func (s *scene) overlayOf(name string) string {
	s.Helper()
	page, err := docs.Read(s.env.Root(), name)
	if err != nil {
		s.Fatal(err)
	}
	overlays := slices.DeleteFunc(page.Blocks("yaml"), func(block string) bool {
		return !strings.Contains(block, "kind: Kustomization\n") || !strings.Contains(block, "../deploy")
	})
	if len(overlays) != 1 {
		s.Fatalf("%s has %d overlays, want 1", name, len(overlays))
	}
	dir := s.TempDir()
	deploy, err := filepath.Rel(dir, filepath.Join(s.env.Root(), "deploy"))
	if err != nil {
		s.Fatal(err)
	}
	overlay := strings.ReplaceAll(overlays[0], "../deploy", deploy)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o600); err != nil {
		s.Fatal(err)
	}
	return dir
}

// cloned is the machine that Cluster API's own code makes of a template, for a
// Machine with these labels.
func (s *scene) cloned(template *unstructured.Unstructured, name string, labels map[string]string) *unstructured.Unstructured {
	s.Helper()
	machine, err := external.GenerateTemplate(&external.GenerateTemplateInput{
		Template: template,
		TemplateRef: &corev1.ObjectReference{
			APIVersion: template.GetAPIVersion(), Kind: template.GetKind(), Name: template.GetName(),
		},
		Name: name, Namespace: s.ns, ClusterName: harness.DefaultCluster, Labels: labels,
	})
	if err != nil {
		s.Fatal(err)
	}
	return machine
}

// The whole example of the front page, and what it and docs/try.md tell to look at.
func TestExampleOfTheFrontPage(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	page, err := docs.Read(s.env.Root(), "README.md")
	if err != nil {
		t.Fatal(err)
	}
	var template *unstructured.Unstructured
	for _, object := range manifestsOf(t, page) {
		object.SetNamespace(s.ns)
		s.create(object)
		template = object
	}
	s.create(s.cloned(template, "cp-1", nil))
	ip := s.settled("cp-1")
	s.told("cp-1", "AddressBound")

	for name, wants := range map[string][]string{
		"README.md":   {"cp-1   [" + ip + "/24]"},
		"docs/try.md": {"cp-1-0", "AddressBound"},
	} {
		printed := s.runToSee(name)
		for _, want := range wants {
			if !strings.Contains(printed, want) {
				t.Errorf("%q is not in what the commands of %s print:\n%s", want, name, printed)
			}
		}
	}
	device := s.machine("cp-1").Spec.Network.Devices[0]
	if device.Gateway4 != "10.20.56.1" || !slices.Equal(device.Nameservers, []string{"10.20.56.2"}) {
		t.Errorf("the device has gateway %s and name servers %v", device.Gateway4, device.Nameservers)
	}
}

// What docs/adapter.md says is served as it is.
func TestManifestsOfTheAdapterPageServeAsTheyAre(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	page, err := docs.Read(s.env.Root(), "docs/adapter.md")
	if err != nil {
		t.Fatal(err)
	}
	var template *unstructured.Unstructured
	for _, object := range manifestsOf(t, page) {
		object.SetNamespace(s.ns)
		s.create(object)
		template = object
	}

	s.create(s.cloned(template, "cp-1", nil))

	device := s.machine("cp-1").Spec.Network.Devices[0]
	if !slices.Equal(device.IPAddrs, []string{"10.20.58.30/24"}) || device.Gateway4 != "10.20.58.1" ||
		!slices.Equal(device.Nameservers, []string{"10.20.58.53"}) || !slices.Equal(device.SearchDomains, []string{"example.org"}) {
		t.Errorf("the device is %+v", device)
	}
}

// runToSee is what the commands print by which a page shows that it works.
func (s *scene) runToSee(name string) string {
	s.Helper()
	page, err := docs.Read(s.env.Root(), name)
	if err != nil {
		s.Fatal(err)
	}
	text, _ := page.Section("See that it works")
	blocks := docs.Page{Text: text}.Blocks("sh")
	if len(blocks) != 1 {
		s.Fatalf("%s tells to run %d blocks, want 1", name, len(blocks))
	}
	return shell(s.T, s.env, "--namespace="+s.ns, blocks[0])
}

// docs/guide.md lists where the label may stand. Cluster API copies what stands
// elsewhere than on the template itself to the Machine, or to the machine.
func TestLabelsThatClusterAPICopiesNameThePool(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns), harness.Pool(s.ns, harness.PoolNamed("workers"), harness.PoolRange("10.16.57.88", "10.16.57.93"),
		harness.PoolWith(func(pool *ipamv1.IPPool) { pool.Spec.NamePrefix = "workers" })))
	label := map[string]string{harness.PoolLabel: "workers"}
	plain := harness.Template(s.ns, "plain", harness.WithPool(harness.DefaultPool))
	inside := harness.Template(s.ns, "inside", harness.WithPool(harness.DefaultPool))
	inside.Spec.Template.ObjectMeta.Labels = label
	s.create(plain, inside)

	for name, machine := range map[string]*unstructured.Unstructured{
		"own label of the template":        s.cloned(s.untyped(plain), "own", nil),
		"spec.template.metadata":           s.cloned(s.untyped(inside), "inside", nil),
		"the Machine's, as owners make it": s.cloned(s.untyped(plain), "copied", label),
	} {
		s.create(machine)
		want := "10.16.57."
		if machine.GetName() == "own" {
			want = "10.16.56."
		}
		if ip := s.ip(machine.GetName()); !strings.HasPrefix(ip, want) {
			t.Errorf("%s: the machine has %s, want one of %s*", name, ip, want)
		}
	}
}

func (s *scene) untyped(object client.Object) *unstructured.Unstructured {
	s.Helper()
	manifest, err := harness.Unstructured(object)
	if err != nil {
		s.Fatal(err)
	}
	return manifest
}

// moduleOf is the module that has a file of a project, by the name that
// docs/upstream.md gives it, and whose module file says its version.
func moduleOf(project, file string) (family, module string) {
	switch project {
	case "metal3":
		return "metal3-ipam", "github.com/metal3-io/ip-address-manager"
	case "in-cluster":
		return "in-cluster-ipam", "sigs.k8s.io/cluster-api-ipam-provider-in-cluster"
	case "CAPV":
		return "capv", "sigs.k8s.io/cluster-api-provider-vsphere"
	case "Cluster API":
		return "cluster-api", "sigs.k8s.io/cluster-api"
	case "Kubernetes":
		if strings.HasPrefix(file, "pkg/admission/") {
			return "kubernetes", "k8s.io/apiserver"
		}
		return "kubernetes", "k8s.io/kubernetes"
	}
	return "", ""
}

func TestBehavioursOfOthersAreWhereUpstreamSays(t *testing.T) {
	t.Parallel()
	builder, err := programs.NewBuilder(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	page, err := docs.Read(builder.Root, "docs/upstream.md")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := page.Section("Behaviours of others that we rely on")
	rows := docs.Rows(text)
	if len(rows) == 0 {
		t.Fatalf("%s has no table of them", page.Path)
	}
	for _, row := range rows {
		if err := isThere(t.Context(), builder, row[0], strings.Trim(row[1], "`"), strings.Trim(row[2], "`")); err != nil {
			t.Error(err)
		}
	}
}

// isThere returns an error unless a project, as its name and version, has a file
// with this text in it.
func isThere(ctx context.Context, builder *programs.Builder, project, file, text string) error {
	i := strings.LastIndex(project, " ")
	if i < 0 {
		return fmt.Errorf("%q has no version", project)
	}
	family, module := moduleOf(project[:i], file)
	if module == "" {
		return fmt.Errorf("no module is known of %q", project)
	}
	dir, err := builder.ModuleDir(ctx, family, module)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(dir, "@"+project[i+1:]) {
		return fmt.Errorf("the page relies on %s, and %s is what is built", project, filepath.Base(dir))
	}
	content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(file)))
	if err != nil {
		return err
	}
	if !strings.Contains(string(content), text) {
		return fmt.Errorf("%s of %s does not have %q", file, project, text)
	}
	return nil
}
