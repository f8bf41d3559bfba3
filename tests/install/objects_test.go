// Package install shows that each way to install brings the same: a folder for
// kubectl, a file for clusterctl, a chart for Helm. Nothing here needs a cluster.
package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"capv-static-ip.dev/tests/programs"
)

// image is what a release could name: clusterctl takes no name without a registry.
const image = "registry.example.org/capi/capv-static-ip:v0.1.0"

// project is where we are, with the programs that render.
type project struct {
	*testing.T
	builder *programs.Builder
}

func newProject(t *testing.T) project {
	t.Helper()
	builder, err := programs.NewBuilder(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return project{T: t, builder: builder}
}

// path names something from the project's folder.
func (p project) path(elements ...string) string {
	return filepath.Join(append([]string{p.builder.Root}, elements...)...)
}

// run runs a program in the project's folder and returns what it prints.
func (p project) run(program string, args ...string) []byte {
	p.Helper()
	output, err := p.try(program, args...)
	if err != nil {
		p.Fatal(err)
	}
	return output
}

// try is run for what may fail; the error has what was printed.
func (p project) try(program string, args ...string) ([]byte, error) {
	p.Helper()
	path, err := p.builder.Path(p.Context(), program)
	if err != nil {
		p.Fatal(err)
	}
	cmd := exec.CommandContext(p.Context(), path, args...)
	cmd.Dir = p.builder.Root
	cmd.Env = append(os.Environ(), "CLUSTERCTL_DISABLE_VERSIONCHECK=true", "XDG_CONFIG_HOME="+p.TempDir(), "HELM_CACHE_HOME="+p.TempDir())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s%s", program, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.Bytes(), nil
}

// rendered renders a folder of ours, with the image of a release.
func (p project) rendered(folder string) []byte {
	p.Helper()
	output := p.run("kustomize", "build", folder)
	if count := bytes.Count(output, []byte("image: capv-static-ip:dev\n")); count != 1 {
		p.Fatalf("%s names the image %d times, want once", folder, count)
	}
	return bytes.Replace(output, []byte("capv-static-ip:dev\n"), []byte(image+"\n"), 1)
}

// read reads objects, in their order.
func read(t *testing.T, content []byte) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
	if len(objects) == 0 {
		t.Fatal("there are no objects")
	}
	return objects
}

func title(object *unstructured.Unstructured) string {
	return fmt.Sprintf("%s %s/%s", object.GetKind(), object.GetNamespace(), object.GetName())
}

// added are labels that a way to install may add.
var added = []string{"cluster.x-k8s.io/provider", "clusterctl.cluster.x-k8s.io", "helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "app.kubernetes.io/instance"}

// plain is the objects by title, without added labels.
func plain(t *testing.T, objects []*unstructured.Unstructured) map[string]*unstructured.Unstructured {
	t.Helper()
	byTitle := map[string]*unstructured.Unstructured{}
	for _, object := range objects {
		object = object.DeepCopy()
		labels := object.GetLabels()
		maps.DeleteFunc(labels, func(name, _ string) bool { return slices.Contains(added, name) })
		object.SetLabels(labels)
		// clusterctl takes kinds that it does not know for namespaced ones, and says
		// what status there is; the API server clears both.
		if strings.HasPrefix(object.GetKind(), "ValidatingAdmissionPolicy") {
			object.SetNamespace("")
		}
		delete(object.Object, "status")
		if byTitle[title(object)] != nil {
			t.Fatalf("%s is there twice", title(object))
		}
		byTitle[title(object)] = object
	}
	return byTitle
}

// same checks that two ways bring the same objects.
func same(t *testing.T, got, want []*unstructured.Unstructured) {
	t.Helper()
	gotten, wanted := plain(t, got), plain(t, want)
	for name, object := range wanted {
		other := gotten[name]
		if other == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		for _, difference := range differences("", other.Object, object.Object) {
			t.Errorf("%s: %s", name, difference)
		}
	}
	for name := range gotten {
		if wanted[name] == nil {
			t.Errorf("%s is too much", name)
		}
	}
}

// differences tells where two values differ.
func differences(path string, got, want any) []string {
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			break
		}
		var all []string
		keys := maps.Clone(want)
		maps.Copy(keys, got)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			all = append(all, differences(path+"."+key, got[key], want[key])...)
		}
		return all
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			break
		}
		var all []string
		for i := range want {
			all = append(all, differences(fmt.Sprintf("%s[%d]", path, i), got[i], want[i])...)
		}
		return all
	case string:
		// Programs fold long expressions in lines of their own.
		if got, ok := got.(string); ok && slices.Equal(strings.Fields(got), strings.Fields(want)) {
			return nil
		}
	}
	if fmt.Sprintf("%T %v", got, got) == fmt.Sprintf("%T %v", want, want) {
		return nil
	}
	return []string{fmt.Sprintf("%s is %v, want %v", path, got, want)}
}
