//go:build heavy

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// operated is a control plane on which the operator of Cluster API runs.
type operated struct {
	*testing.T
	plane   *harness.ControlPlane
	kubectl string
}

func newOperated(t *testing.T) operated {
	t.Helper()
	// The test's own context ends before its cleanup, which still looks around.
	ctx := context.WithoutCancel(t.Context())
	plane, err := harness.Start(ctx, harness.Options{Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			plane.DumpLogs(os.Stderr, 60)
		}
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := plane.InstallStackCRDs(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.StartOperator(ctx); err != nil {
		t.Fatal(err)
	}
	kubectl, err := plane.Kubectl(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o := operated{T: t, plane: plane, kubectl: kubectl}
	o.playCore()
	return o
}

// playCore has the operator know of a Cluster API that is ready, before which it
// installs nothing else. What it would fetch is a namespace.
func (o operated) playCore() {
	o.Helper()
	o.apply(`
apiVersion: v1
kind: Namespace
metadata: {name: capi-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: v1.13.0, namespace: capi-system, labels: {provider-components: cluster-api}}
data:
  components: |
    apiVersion: v1
    kind: Namespace
    metadata: {name: capi-system}
  metadata: |
    apiVersion: clusterctl.cluster.x-k8s.io/v1alpha3
    kind: Metadata
    releaseSeries: [{major: 1, minor: 13, contract: v1beta2}]
---
apiVersion: operator.cluster.x-k8s.io/v1alpha2
kind: CoreProvider
metadata: {name: cluster-api, namespace: capi-system}
spec:
  version: v1.13.0
  fetchConfig: {selector: {matchLabels: {provider-components: cluster-api}}}
`)
	core := o.provider("CoreProvider", "capi-system", "cluster-api")
	o.installed(core, "v1.13.0")
	o.within("Cluster API to count as ready", func(ctx context.Context) error {
		if err := o.plane.Client.Get(ctx, client.ObjectKeyFromObject(core), core); err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(core.Object, "status", "conditions")
		if err != nil {
			return err
		}
		conditions = append(conditions, map[string]any{
			"type": "Ready", "status": "True", "reason": "Played", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
		})
		if err := unstructured.SetNestedSlice(core.Object, conditions, "status", "conditions"); err != nil {
			return err
		}
		return o.plane.Client.Status().Update(ctx, core)
	})
}

func (o operated) apply(text string) {
	o.Helper()
	file := filepath.Join(o.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		o.Fatal(err)
	}
	// The operator is asked about its objects as soon as it answers.
	o.within("objects to be applied", func(ctx context.Context) error {
		_, err := execute(ctx, ".", o.kubectl, "--kubeconfig="+o.plane.Kubeconfig, "apply", "--server-side", "-f", file)
		return err
	})
}

func (o operated) provider(kind, namespace, name string) *unstructured.Unstructured {
	provider := &unstructured.Unstructured{}
	provider.SetAPIVersion("operator.cluster.x-k8s.io/v1alpha2")
	provider.SetKind(kind)
	provider.SetNamespace(namespace)
	provider.SetName(name)
	return provider
}

func (o operated) within(what string, condition func(context.Context) error) {
	o.Helper()
	if err := harness.Eventually(o.Context(), provisioned, what, condition); err != nil {
		o.Fatal(err)
	}
}

// installed waits until the operator has installed a version of a provider.
func (o operated) installed(provider *unstructured.Unstructured, version string) {
	o.Helper()
	o.within(provider.GetName()+" "+version+" to be installed", func(ctx context.Context) error {
		if err := o.plane.Client.Get(ctx, client.ObjectKeyFromObject(provider), provider); err != nil {
			return err
		}
		if got, _, err := unstructured.NestedString(provider.Object, "status", "installedVersion"); err != nil || got != version {
			return fmt.Errorf("it is %q (error %w); status %v", got, err, provider.Object["status"])
		}
		return nil
	})
}

// weAre waits until the operator has installed a version of ours, with this image.
func (o operated) weAre(version, image string) {
	o.Helper()
	o.installed(o.provider("AddonProvider", harness.SystemNamespace, "capv-static-ip"), version)
	deployment := &unstructured.Unstructured{}
	deployment.SetAPIVersion("apps/v1")
	deployment.SetKind("Deployment")
	o.within("the Deployment with image "+image, func(ctx context.Context) error {
		err := o.plane.Client.Get(ctx, client.ObjectKey{Namespace: harness.SystemNamespace, Name: "capv-static-ip-manager"}, deployment)
		if err != nil {
			return err
		}
		containers, _, err := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			return fmt.Errorf("it has %d containers (error %w)", len(containers), err)
		}
		if got := containers[0].(map[string]any)["image"]; got != image {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
}

// serve has managers work with what the operator installed.
func (o operated) serve() {
	o.Helper()
	ctx := context.WithoutCancel(o.Context())
	if _, err := o.plane.StartMetal3(ctx, harness.Metal3Options{}); err != nil {
		o.Fatal(err)
	}
	installation, err := o.plane.Installed(ctx)
	if err != nil {
		o.Fatal(err)
	}
	if _, err := installation.StartManager(ctx, harness.ManagerOptions{}); err != nil {
		o.Fatal(err)
	}
	ns, err := o.plane.CreateNamespace(ctx, "scene")
	if err != nil {
		o.Fatal(err)
	}
	machine := harness.Machine(ns, "cp-0", harness.WithPool(harness.DefaultPool))
	for _, object := range []client.Object{harness.Pool(ns), machine} {
		if err := o.plane.Client.Create(ctx, object); err != nil {
			o.Fatal(err)
		}
	}
	if got := harness.Addresses(machine); len(got) != 1 {
		o.Errorf("the machine has %v, want one address", got)
	}
}

func TestOperatorInstallsAndUpgradesFromTheConfigMapOfTheBundle(t *testing.T) {
	o := newOperated(t)
	dir, registry := bundle(t, o.plane)
	content, err := os.ReadFile(filepath.Join(dir, "operator", "provider-airgap.yaml"))
	if err != nil {
		t.Fatal(err)
	}

	o.apply(string(content))
	o.weAre(bundledVersion, registry+"/capv-static-ip:"+bundledVersion)
	o.serve()

	o.apply(strings.ReplaceAll(string(content), bundledVersion, nextVersion))
	o.weAre(nextVersion, registry+"/capv-static-ip:"+nextVersion)
}

func TestOperatorInstallsWhatTheBundlePushed(t *testing.T) {
	o := newOperated(t)
	dir, registry := bundle(t, o.plane)
	content, err := os.ReadFile(filepath.Join(dir, "operator", "provider-oci-airgap.yaml"))
	if err != nil {
		t.Fatal(err)
	}

	// Nobody has a certificate for this registry.
	o.apply(strings.Replace(string(content), "oci: ", "oci: http://", 1))
	o.weAre(bundledVersion, registry+"/capv-static-ip:"+bundledVersion)
	o.serve()
}
