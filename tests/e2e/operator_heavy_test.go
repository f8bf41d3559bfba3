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
	plane    *harness.ControlPlane
	operator *harness.Operator
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
	operator, err := plane.StartOperator(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return operated{T: t, plane: plane, operator: operator}
}

func (o operated) apply(text string) {
	o.Helper()
	if err := o.operator.Apply(o.Context(), text); err != nil {
		o.Fatal(err)
	}
}

// weAre waits until the operator has installed a version of ours, with this image.
func (o operated) weAre(version, image string) {
	o.Helper()
	if err := o.operator.Installed(o.Context(), "AddonProvider", harness.SystemNamespace, "capv-static-ip", version); err != nil {
		o.Fatal(err)
	}
	deployment := &unstructured.Unstructured{}
	deployment.SetAPIVersion("apps/v1")
	deployment.SetKind("Deployment")
	err := harness.Eventually(o.Context(), provisioned, "the Deployment with image "+image, func(ctx context.Context) error {
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
	if err != nil {
		o.Fatal(err)
	}
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
	o.apply(strings.Replace(string(content), `oci: "`, `oci: "http://`, 1))
	o.weAre(bundledVersion, registry+"/capv-static-ip:"+bundledVersion)
	o.serve()
}
