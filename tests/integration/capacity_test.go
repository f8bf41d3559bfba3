package integration

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"capv-static-ip.dev/tests/harness"
)

// kubectl runs kubectl with this on its standard input, and returns what it warns of.
func (s *scene) kubectl(ctx context.Context, input string, args ...string) (warnings []string, err error) {
	s.Helper()
	program, err := s.env.Kubectl(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--kubeconfig", s.env.Kubeconfig, "--namespace", s.ns}, args...)...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		if text, warns := strings.CutPrefix(strings.TrimSpace(line), "Warning: "); warns {
			warnings = append(warnings, strings.ReplaceAll(text, s.ns, "NAMESPACE"))
		}
	}
	return warnings, nil
}

// warned expects kubectl to warn of this and of nothing else, when the caches have what was
// written before. Empty is nothing. One kubectl takes its time: it reads the schemas of all
// APIs first, which an API server makes anew after each CRD.
func (s *scene) warned(want, input string, args ...string) {
	s.Helper()
	expect := func(more ...string) error {
		got, err := s.kubectl(s.Context(), input, append(args, more...)...)
		if err == nil && strings.Join(got, "\n") != want {
			err = fmt.Errorf("kubectl %s warns of %q, want %q", strings.Join(args, " "), got, want)
		}
		return err
	}
	s.eventually("a warning", func(context.Context) error { return expect("--dry-run=server") })
	if err := expect(); err != nil {
		s.Error(err)
	}
}

// deploymentOf is a MachineDeployment of the default Cluster, as people write it.
func deploymentOf(template string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata:
  name: md
  labels: {topology.cluster.x-k8s.io/owned: "", topology.cluster.x-k8s.io/deployment-name: md-0}
spec:
  clusterName: %s
  replicas: %d
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      clusterName: %[1]s
      version: v1.36.3
      bootstrap: {dataSecretName: none}
      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: VSphereMachineTemplate, name: %[3]s}
`, harness.DefaultCluster, replicas, template)
}

// scarce makes a pool of one address, a template that asks for it, and a control plane of
// three machines, none of which is there, in a Cluster with a topology.
func (s *scene) scarce() (template string) {
	s.Helper()
	f := harness.OfInCluster
	s.pool(f, f.WithIPs(170, 170))
	made := harness.Template(s.ns, "t", f.Ask(f.PoolName))
	owner := harness.ControlPlaneOwner(s.ns, "cp", made.Name, harness.WithLabel("topology.cluster.x-k8s.io/owned", ""))
	s.create(made, owner)
	topology := `--patch={"spec":{"topology":{"classRef":{"name":"class"},"version":"v1.36.3","workers":{"machineDeployments":[{"class":"default","name":"md-0"}]}}}}`
	if _, err := s.kubectl(s.Context(), "", "patch", "cluster.cluster.x-k8s.io", harness.DefaultCluster, "--type=merge", topology); err != nil {
		s.Fatal(err)
	}
	return made.Name
}

func TestKubectlWarnsOfChangesForWhichThereAreTooFewAddresses(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := s.scarce()
	name := harness.OfInCluster.PoolName
	supply := fmt.Sprintf("InClusterIPPool %q in namespace %q has 1 free address; ", name, "NAMESPACE")
	const controlPlane = " needs 3 more than it holds: it will stall; add addresses"

	s.warned(supply+"the machines that this MachineDeployment is to have need 2 more than it holds: one will be refused; add addresses",
		deploymentOf(template, 2), "apply", "-f", "-")
	s.warned(supply+"the machines that this MachineDeployment is to have need 4 more than it holds: 3 will be refused; add addresses",
		deploymentOf(template, 4), "apply", "-f", "-")
	s.warned(supply+"a roll-out of this KubeadmControlPlane"+controlPlane,
		"", "patch", "kubeadmcontrolplane", "cp", "--type=merge", `--patch={"spec":{"version":"v1.37.0"}}`)
	const upgraded = `{"spec":{"topology":{"version":"v1.37.0"}}}`
	s.warned(supply+`a roll-out of MachineDeployment "md" needs 4 more than it holds: it will stall; add addresses`+"\n"+
		supply+`a roll-out of KubeadmControlPlane "cp"`+controlPlane,
		"", "patch", "cluster.cluster.x-k8s.io", harness.DefaultCluster, "--type=merge", "--patch="+upgraded)

	for _, kind := range []string{"machinedeployment/md", "kubeadmcontrolplane/cp", "cluster.cluster.x-k8s.io/" + harness.DefaultCluster} {
		s.warned("", "", "label", kind, "a=b")
	}
}

// A control plane is changed in an emergency, too.
func TestChangeGoesThroughAtOnceWithoutAManager(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true}, 1)
	s := newScene(t, env)
	s.scarce()
	to := func(version string) []string {
		return []string{"patch", "kubeadmcontrolplane", "cp", "--type=merge", fmt.Sprintf(`--patch={"spec":{"version":%q}}`, version)}
	}
	s.eventually("a warning", func(context.Context) error {
		got, err := s.kubectl(s.Context(), "", append(to("v1.37.0"), "--dry-run=server")...)
		if err == nil && len(got) != 1 {
			err = fmt.Errorf("kubectl warns of %q", got)
		}
		return err
	})
	if err := env.managers[0].Stop(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	warnings, err := s.kubectl(t.Context(), "", to("v1.37.0")...)
	took := time.Since(start)
	t.Logf("without a manager the change took %s", took)
	if err != nil || len(warnings) > 0 || took > 2*time.Second {
		t.Errorf("got %q and error %v after %s, want it done at once", warnings, err, took)
	}
}
