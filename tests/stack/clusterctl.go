package stack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/programs"
)

// inventory is what `clusterctl init` would have noted about the providers.
var inventory = []struct{ namespace, manifest, name, kind string }{
	{"capi-system", "cluster-api", "cluster-api", "CoreProvider"},
	{"capi-kubeadm-bootstrap-system", "bootstrap-kubeadm", "kubeadm", "BootstrapProvider"},
	{"capi-kubeadm-control-plane-system", "control-plane-kubeadm", "kubeadm", "ControlPlaneProvider"},
	{"capv-system", "infrastructure-vsphere", "vsphere", "InfrastructureProvider"},
	{"metal3-ipam-system", "ipam-metal3", "metal3", "IPAMProvider"},
	{"capi-ipam-in-cluster-system", "ipam-in-cluster", "in-cluster", "IPAMProvider"},
}

// recordProviders notes which providers there are, so that clusterctl works.
// Their versions are of no importance but that they are the same in each stack.
func (s *Stack) recordProviders(ctx context.Context) error {
	for _, entry := range inventory {
		provider := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "clusterctl.cluster.x-k8s.io/v1alpha3",
			"kind":       "Provider",
			"metadata": map[string]any{
				"namespace": entry.namespace, "name": entry.manifest,
				"labels": map[string]any{
					"clusterctl.cluster.x-k8s.io":      "",
					"clusterctl.cluster.x-k8s.io/core": "inventory",
					"cluster.x-k8s.io/provider":        entry.manifest,
				},
			},
			"providerName": entry.name, "type": entry.kind, "version": "v1.0.0",
		}}
		if err := s.EnsureNamespace(ctx, entry.namespace); err != nil {
			return err
		}
		if err := s.Plane.Client.Create(ctx, provider); err != nil {
			return fmt.Errorf("recording provider %s: %w", entry.manifest, err)
		}
	}
	return nil
}

// Clusterctl runs clusterctl against this stack, and returns what it printed,
// also when it failed.
func (s *Stack) Clusterctl(ctx context.Context, args ...string) (string, error) {
	return s.clusterctl(ctx, io.Discard, args...)
}

func (s *Stack) clusterctl(ctx context.Context, show io.Writer, args ...string) (string, error) {
	builder, err := programs.NewBuilder(s.options.Progress)
	if err != nil {
		return "", err
	}
	path, err := builder.Path(ctx, "clusterctl")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, append(args, "--kubeconfig="+s.Plane.Kubeconfig)...)
	cmd.Env = append(os.Environ(), "CLUSTERCTL_DISABLE_VERSIONCHECK=true", "XDG_CONFIG_HOME="+filepath.Join(s.Plane.Dir, "clusterctl"))
	var output bytes.Buffer
	all := io.MultiWriter(&output, show)
	cmd.Stdout, cmd.Stderr = all, all
	if err := cmd.Run(); err != nil {
		return output.String(), fmt.Errorf("running clusterctl %v: %w\n%s", args, err, output.String())
	}
	return output.String(), nil
}

// Move moves the Clusters of a namespace, and what belongs to them, to another
// management cluster, as `clusterctl move` does.
func (s *Stack) Move(ctx context.Context, namespace string, to *Stack) (string, error) {
	return s.MoveShown(ctx, namespace, to, io.Discard)
}

// MoveShown is Move, and writes to show what clusterctl prints, as it prints it.
func (s *Stack) MoveShown(ctx context.Context, namespace string, to *Stack, show io.Writer) (string, error) {
	return s.clusterctl(ctx, show, "move", "--v=5", "--namespace="+namespace, "--to-kubeconfig="+to.Plane.Kubeconfig)
}

// Create creates objects, one after the other.
func (s *Stack) Create(ctx context.Context, objects ...client.Object) error {
	for _, object := range objects {
		if err := s.Plane.Client.Create(ctx, object); err != nil {
			return fmt.Errorf("creating %T %s: %w", object, object.GetName(), err)
		}
	}
	return nil
}
