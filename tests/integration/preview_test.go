package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/tests/harness"
)

// previews runs kubectl static-ip preview, and checks its exit code and what it prints.
func (s *scene) previews(code int, want []string, args ...string) {
	s.Helper()
	stdout, stderr, got := s.plugin(append([]string{"preview"}, args...)...)
	for _, text := range want {
		if !strings.Contains(stdout+stderr, text) {
			s.Errorf("preview %s prints\n%s%s\nwant %q in it", strings.Join(args, " "), stdout, stderr, text)
		}
	}
	if got != code {
		s.Errorf("preview %s exits with %d, want %d: it prints\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
}

// file writes manifests into one.
func (s *scene) file(manifests ...string) string {
	s.Helper()
	path := filepath.Join(s.TempDir(), "manifests.yaml")
	if err := os.WriteFile(path, []byte(strings.Join(manifests, "\n---\n")), 0o600); err != nil {
		s.Fatal(err)
	}
	return path
}

// viewers make a group whose members may see what the plugin reads, and create nothing.
func (s *scene) viewers() string {
	s.Helper()
	group := "viewers-of-" + s.ns
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: group},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "capv-static-ip-viewer"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
	}
	s.createGlobal(binding)
	return group
}

func TestPluginPreviewsWhatMachinesWouldGet(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := s.scarce()
	name := harness.OfInCluster.PoolName
	s.knownCounts(harness.OfInCluster.Ask(name), 1)
	one := "would claim 1 address of InClusterIPPool \"" + name + "\" (1 free)"

	s.previews(1, []string{"KubeadmControlPlane/cp (3 machines)", "3 more of 1 free", "! 2 machines would be refused", one}, "kcp/cp")
	s.previews(0, []string{"KubeadmControlPlane/cp (1 machine)", "1 more of 1 free", one}, "kcp/cp", "--replicas=1")
	s.previews(0, []string{"MachineDeployment/md (1 machine)", one}, "-f", s.file(deploymentOf(template, 1)))
	s.previews(2, []string{"is not KIND/NAME"}, "pool/cp")
	s.previews(1, []string{"you may not create vspheremachines", "! 2 machines would be refused"}, "kcp/cp",
		"--as=viewer", "--as-group="+s.viewers())

	// The template need not be in the cluster.
	unknown := harness.Template(s.ns, "unknown", harness.OfInCluster.Ask("nowhere"))
	manifest, err := harness.Unstructured(unknown)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	s.previews(1, []string{"! would be refused: ", `"nowhere"`}, "-f", s.file(deploymentOf("unknown", 1), string(text)))

	machine, err := harness.Unstructured(s.asks(harness.OfInCluster, "lone"))
	if err != nil {
		t.Fatal(err)
	}
	if text, err = yaml.Marshal(machine); err != nil {
		t.Fatal(err)
	}
	s.previews(0, []string{"VSphereMachine/lone (1 machine)", one}, "-f", s.file(string(text)))
	s.expectNoClaims()
}
