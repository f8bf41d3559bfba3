package e2e

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/tests/harness"
)

// builtPlugin is the path of kubectl-static_ip, which is built once.
var builtPlugin = sync.OnceValues(func() (string, error) {
	return harness.BuildPlugin(context.Background(), shared.Plane.Root(), filepath.Join(shared.Plane.Dir, "plugin"))
})

// plugin is a command of kubectl static-ip for the scene's namespace, by who has this kubeconfig.
func (s *scene) plugin(kubeconfig string, args ...string) *exec.Cmd {
	s.Helper()
	path, err := builtPlugin()
	if err != nil {
		s.Fatal(err)
	}
	return exec.CommandContext(s.Context(), path, append(args, "--kubeconfig", kubeconfig, "--namespace", s.ns)...)
}

// runPlugin runs a command to its end, and returns its exit code and all that it has printed.
func (s *scene) runPlugin(kubeconfig string, args ...string) (code int, output string) {
	s.Helper()
	cmd := s.plugin(kubeconfig, args...)
	printed, err := cmd.CombinedOutput()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		s.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(printed)
}

// pluginSays runs a command that has to exit with this code, and to say this.
func (s *scene) pluginSays(kubeconfig string, code int, says string, args ...string) {
	s.Helper()
	if got, output := s.runPlugin(kubeconfig, args...); got != code || !strings.Contains(output, says) {
		s.Fatalf("%v exits with %d, want %d, and does not say %q:\n%s", args, got, code, says, output)
	}
	s.step("%v says %q", args, says)
}

// pluginIsKilled runs a command, and kills it with -9 at a word.
func (s *scene) pluginIsKilled(kubeconfig, word string, args ...string) {
	s.Helper()
	err := harness.KilledAt(s.plugin(kubeconfig, args...), word, func(line string) { s.step("it says: %s", line) })
	if err != nil {
		s.Fatalf("%v: %v", args, err)
	}
	s.step("%v is killed", args)
}

// exempt makes a kubeconfig of an administrator whom deploy/protection is not for.
func (s *scene) exempt() (kubeconfig string) {
	s.Helper()
	const name, users = "mover", "exempt-users"
	credentials, err := s.stack.Plane.Credentials(name, "system:masters")
	if err != nil {
		s.Fatal(err)
	}
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: harness.SystemNamespace, Name: "capv-static-ip-protection"}}
	s.get(config)
	if !strings.Contains(config.Data[users], name) {
		patch(s, config, func(config *corev1.ConfigMap) { config.Data[users] += name + "\n" })
	}
	return credentials.Kubeconfig
}
