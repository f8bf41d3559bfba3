package docs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// NodeFiles are those that the KubeadmControlPlane of a page has on each node, by path.
func (p Page) NodeFiles() (map[string]string, error) {
	objects, err := p.Manifests()
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if object.GetKind() != "KubeadmControlPlane" {
			continue
		}
		files, _, err := unstructured.NestedSlice(object.Object, "spec", "kubeadmConfigSpec", "files")
		if err != nil {
			return nil, err
		}
		contents := map[string]string{}
		for _, file := range files {
			file, _ := file.(map[string]any)
			path, _ := file["path"].(string)
			contents[path], _ = file["content"].(string)
		}
		return contents, nil
	}
	return nil, errors.New("there is no KubeadmControlPlane")
}

// RunOnNode writes the files of a node, by their paths on it, into a folder that stands
// for its root, and runs one of them, a script.
func RunOnNode(ctx context.Context, root string, files map[string]string, script string) error {
	here := func(text string) string {
		for _, dir := range []string{"/etc/", "/run/"} {
			text = strings.ReplaceAll(text, " "+dir, " "+root+dir)
			text = strings.ReplaceAll(text, ">"+dir, ">"+root+dir)
		}
		return text
	}
	for path, content := range files {
		if path == script {
			content = here(content)
		}
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	output, err := exec.CommandContext(ctx, "/bin/sh", filepath.Join(root, script)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s: %w: %s", script, err, output)
	}
	return nil
}
