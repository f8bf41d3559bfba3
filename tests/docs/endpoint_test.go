package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// filesOfEndpoint are those that the example of docs/endpoint.md has on each node.
func filesOfEndpoint(t *testing.T) map[string]string {
	t.Helper()
	files, err := read(t, "docs/endpoint.md").NodeFiles()
	if err != nil {
		t.Fatal(err)
	}
	return files
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

				root := t.TempDir()
				if err := RunOnNode(t.Context(), root, files, addressScript); err != nil {
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
	err := RunOnNode(t.Context(), t.TempDir(), filesOfEndpoint(t), addressScript)
	if err == nil || !strings.Contains(err.Error(), "no control plane endpoint in kubeadm's configuration") {
		t.Errorf("got %v", err)
	}
}
