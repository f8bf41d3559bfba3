package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// filesOfEndpoint are those that the example of docs/endpoint.md has on each node.
func filesOfEndpoint(t *testing.T) map[string]string {
	t.Helper()
	objects, err := read(t, "docs/endpoint.md").Manifests()
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if object.GetKind() != "KubeadmControlPlane" {
			continue
		}
		files, _, err := unstructured.NestedSlice(object.Object, "spec", "kubeadmConfigSpec", "files")
		if err != nil {
			t.Fatal(err)
		}
		contents := map[string]string{}
		for _, file := range files {
			file := file.(map[string]any)
			contents[file["path"].(string)] = file["content"].(string)
		}
		return contents
	}
	t.Fatal("docs/endpoint.md has no KubeadmControlPlane")
	return nil
}

// initFile is kubeadm's configuration of a first node, in the form in which Cluster API
// writes it (bootstrap/kubeadm/types, and internal/cloudinit of its bootstrap provider).
func initFile(endpoint string) string {
	return fmt.Sprintf(`---
apiServer: {}
apiVersion: kubeadm.k8s.io/v1beta4
clusterName: prod
controlPlaneEndpoint: %s
controllerManager: {}
dns: {}
etcd: {}
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
networking: {}
scheduler: {}

---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: 10.0.0.7
  bindPort: 6443
nodeRegistration:
  taints: null
`, endpoint)
}

// joinFile is that of a node that joins.
func joinFile(endpoint string) string {
	return fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
controlPlane:
  localAPIEndpoint: {}
discovery:
  bootstrapToken:
    apiServerEndpoint: %s
    caCertHashes:
    - sha256:0000
    token: abcdef.0123456789abcdef
kind: JoinConfiguration
nodeRegistration:
  taints: null
`, endpoint)
}

// runOnNode writes files of a node, by their paths on it, runs a script of its, and
// returns the files' folder.
func runOnNode(t *testing.T, files map[string]string, script string) (root string, err error) {
	t.Helper()
	root = t.TempDir()
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
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil { //nolint:gosec // one of them is run
			t.Fatal(err)
		}
	}
	output, err := exec.CommandContext(t.Context(), "/bin/sh", filepath.Join(root, script)).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return root, err
}

const (
	addressScript = "/etc/pre-kubeadm-commands/40-kube-vip-address.sh"
	staticPod     = "/etc/kubernetes/manifests/kube-vip.yaml"
)

func TestScriptForKubeVIPFindsTheEndpoint(t *testing.T) {
	for path, content := range map[string]func(string) string{
		"/run/kubeadm/kubeadm.yaml":             initFile,
		"/run/kubeadm/kubeadm-join-config.yaml": joinFile,
		"/etc/kubeadm.yml":                      initFile,
	} {
		for endpoint, want := range map[string]string{
			"10.20.56.5:6443":           "10.20.56.5",
			"'[2001:db8::5]:6443'":      "2001:db8::5",
			"prod.vips.example.com:443": "prod.vips.example.com",
		} {
			t.Run(path+"/"+want, func(t *testing.T) {
				files := filesOfEndpoint(t)
				files[path] = content(endpoint)

				root, err := runOnNode(t, files, addressScript)
				if err != nil {
					t.Fatal(err)
				}

				got, err := os.ReadFile(filepath.Join(root, staticPod))
				if err != nil {
					t.Fatal(err)
				}
				if filled := strings.ReplaceAll(files["/etc/kube-vip/kube-vip.yaml"], "CONTROL_PLANE_ENDPOINT", want); string(got) != filled {
					t.Errorf("the manifest is\n%s\nwant\n%s\nof\n%s", got, filled, files[path])
				}
			})
		}
	}
}

func TestScriptForKubeVIPFailsWithoutAnEndpoint(t *testing.T) {
	_, err := runOnNode(t, filesOfEndpoint(t), addressScript)
	if err == nil || !strings.Contains(err.Error(), "no control plane endpoint in kubeadm's configuration") {
		t.Errorf("got %v", err)
	}
}
