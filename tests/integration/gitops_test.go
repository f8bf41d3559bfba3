package integration

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/tests/docs"
	"capv-static-ip.dev/tests/harness"
)

// Names under which the tools apply.
const (
	fluxManager = "kustomize-controller"
	argoManager = "argocd-controller"
)

// inGit are a machine and a VSphereCluster as somebody keeps them in Git.
func inGit(s *scene, f harness.Fixture) []client.Object {
	return []client.Object{s.asks(f, "by-hand"), harness.VSphereCluster(s.ns, "prod", endpointOf(f))}
}

// applied makes an object by an apply, and reads it as it is stored.
func (s *scene) applied(manifest *unstructured.Unstructured, manager string) *unstructured.Unstructured {
	s.Helper()
	s.apply(manifest.DeepCopy(), manager)
	stored := manifest.DeepCopy()
	if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(manifest), stored); err != nil {
		s.Fatal(err)
	}
	return stored
}

// Flux applies in a dry run, compares the answer with what is there, and then applies.
func TestFluxSeesNoDifferenceInWhatWasInjected(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.create(harness.Cluster(s.ns, harness.DefaultCluster))
		s.vips(f, 150, 153)
		for _, object := range inGit(s, f) {
			manifest := s.untyped(object)
			before := s.applied(manifest, fluxManager)

			preview := manifest.DeepCopy()
			if err := harness.Apply(t.Context(), s.env.Client, preview, fluxManager, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(preview.Object["spec"], before.Object["spec"]) {
				t.Errorf("%s: the dry run has\n%v\nwant what is there\n%v", object.GetName(), preview.Object["spec"], before.Object["spec"])
			}
			after := s.applied(manifest, fluxManager)
			if !reflect.DeepEqual(after.Object["spec"], before.Object["spec"]) {
				t.Errorf("%s: after an apply it has\n%v\nwant\n%v", object.GetName(), after.Object["spec"], before.Object["spec"])
			}
		}
	})
}

// Argo CD leaves what is ignored out of both sides, and compares. What it then applies has
// what is there in these places.
func TestArgoCDSeesNoDifferenceInWhatItIgnores(t *testing.T) {
	ignored := ignoredByArgoCD(t)
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.create(harness.Cluster(s.ns, harness.DefaultCluster))
		s.vips(f, 154, 157)
		for _, object := range inGit(s, f) {
			manifest := s.untyped(object)
			before := s.applied(manifest, argoManager)
			if before.GetKind() == "VSphereMachine" && isWithin(manifest.Object["spec"], before.Object["spec"]) {
				t.Error("there is nothing to ignore")
			}

			left, right := manifest.DeepCopy(), before.DeepCopy()
			for _, path := range ignored[before.GetKind()] {
				without(left.Object, path)
				without(right.Object, path)
			}
			if !isWithin(left.Object["spec"], right.Object["spec"]) {
				t.Errorf("%s: it sees the difference between\n%v\nand\n%v", object.GetName(), left.Object["spec"], right.Object["spec"])
			}

			respecting := manifest.DeepCopy()
			respecting.Object["spec"] = before.DeepCopy().Object["spec"]
			after := s.applied(respecting, argoManager)
			if !reflect.DeepEqual(after.Object["spec"], before.Object["spec"]) {
				t.Errorf("%s: after an apply it has\n%v\nwant\n%v", object.GetName(), after.Object["spec"], before.Object["spec"])
			}
			// Without RespectIgnoreDifferences, nothing is lost either.
			after = s.applied(manifest, argoManager)
			if !reflect.DeepEqual(after.Object["spec"], before.Object["spec"]) {
				t.Errorf("%s: after an apply of the manifest it has\n%v\nwant\n%v", object.GetName(), after.Object["spec"], before.Object["spec"])
			}
		}
	})
}

// ignoredByArgoCD are the paths of the snippet in docs/gitops.md, by the kind.
func ignoredByArgoCD(t *testing.T) map[string][]string {
	t.Helper()
	page, err := docs.Read(shared.Root(), "docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := page.Blocks("yaml")
	if len(blocks) != 1 {
		t.Fatalf("the page has %d snippets, want one", len(blocks))
	}
	var application struct {
		IgnoreDifferences []struct {
			Kind              string   `json:"kind"`
			JQPathExpressions []string `json:"jqPathExpressions"`
		} `json:"ignoreDifferences"`
	}
	if err := yaml.Unmarshal([]byte(blocks[0]), &application); err != nil {
		t.Fatal(err)
	}
	ignored := map[string][]string{}
	for _, difference := range application.IgnoreDifferences {
		ignored[difference.Kind] = append(ignored[difference.Kind], difference.JQPathExpressions...)
	}
	return ignored
}

// without takes out what a path of jq leads to. It knows names, and []? for all of a list.
func without(value any, path string) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "."), ".")
	list, isList := strings.CutSuffix(name, "[]?")
	object, ok := value.(map[string]any)
	switch {
	case !ok:
	case rest == "":
		delete(object, name)
	case isList:
		items, _ := object[list].([]any)
		for _, item := range items {
			without(item, rest)
		}
	default:
		without(object[name], rest)
	}
}

// isWithin tells whether all of a manifest is there. A list is compared whole.
func isWithin(manifest, there any) bool {
	wanted, isMap := manifest.(map[string]any)
	got, isAlso := there.(map[string]any)
	if !isMap || !isAlso {
		return reflect.DeepEqual(manifest, there)
	}
	for key, value := range wanted {
		if !isWithin(value, got[key]) {
			return false
		}
	}
	return true
}
