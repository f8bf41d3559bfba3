package integration

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/tests/harness"
)

// The objects are those that a release has for the operator, as release/ makes them. The
// heavy tests take them from there.
func TestOperatorInstallsWhatManagersNeed(t *testing.T) {
	t.Parallel()
	c := newBareTarget(t)
	ctx := context.WithoutCancel(t.Context())
	operator, err := c.plane.StartOperator(ctx)
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := os.ReadFile(filepath.Join(c.plane.Root(), "metadata.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	components := bytes.Replace(c.run(c.kubectl, "kustomize", "deploy/clusterctl"),
		[]byte("image: capv-static-ip:dev\n"), []byte("image: registry.example.org/capi/capv-static-ip:v0.1.0\n"), 1)

	if err := operator.Apply(ctx, ofTheOperator(t, string(components), string(metadata))); err != nil {
		t.Fatal(err)
	}
	if err := operator.Installed(ctx, "AddonProvider", harness.SystemNamespace, "capv-static-ip", "v0.1.0"); err != nil {
		t.Fatal(err)
	}
	everythingWorks(t, installed(c))
}

// ofTheOperator are a ConfigMap with our files, and an AddonProvider that reads it.
func ofTheOperator(t *testing.T, components, metadata string) string {
	t.Helper()
	configMap, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "v0.1.0", "namespace": harness.SystemNamespace, "labels": map[string]any{"provider-components": "capv-static-ip"}},
		"data":     map[string]any{"components": components, "metadata": metadata},
	})
	if err != nil {
		t.Fatal(err)
	}
	return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + harness.SystemNamespace + "}\n---\n" + string(configMap) + `---
apiVersion: operator.cluster.x-k8s.io/v1alpha2
kind: AddonProvider
metadata: {name: capv-static-ip, namespace: ` + harness.SystemNamespace + `}
spec:
  version: v0.1.0
  fetchConfig: {selector: {matchLabels: {provider-components: capv-static-ip}}}
`
}
