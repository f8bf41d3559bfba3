package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fieldOwner owns what the harness applies.
const fieldOwner = client.FieldOwner("harness")

// manifests are the objects that a kustomization renders to.
type manifests []*unstructured.Unstructured

// render renders a folder with a kustomization, the way kubectl apply -k does.
func (c *ControlPlane) render(ctx context.Context, dir string) (manifests, error) {
	kustomize, err := c.builder.Path(ctx, "kustomize")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, kustomize, "build", dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("rendering %s: %w\n%s", dir, err, stderr.String())
	}
	objects, err := parse(&stdout)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", dir, err)
	}
	return objects, nil
}

func parse(from io.Reader) (manifests, error) {
	var objects manifests
	decoder := yaml.NewYAMLOrJSONDecoder(from, 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

// only returns the objects of the given kinds.
func (m manifests) only(kinds ...string) manifests {
	return slices.DeleteFunc(slices.Clone(m), func(object *unstructured.Unstructured) bool {
		return !slices.Contains(kinds, object.GetKind())
	})
}

// applied are the kinds that matter without a kubelet and without
// cert-manager. Definitions go another way, since they have to be waited for.
var applied = []string{
	"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
	"Service", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration",
	"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
}

// apply applies the objects in the order in which they were rendered.
func (c *ControlPlane) apply(ctx context.Context, objects manifests) error {
	for _, object := range objects {
		config := client.ApplyConfigurationFromUnstructured(object.DeepCopy())
		if err := c.Client.Apply(ctx, config, fieldOwner, client.ForceOwnership); err != nil {
			return fmt.Errorf("applying %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

// pointWebhooks makes the webhooks of the objects call an address on this
// machine, where a manager would be behind a Service in a cluster.
func (m manifests) pointWebhooks(address string, caBundle []byte) error {
	for _, object := range m.only("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration") {
		webhooks, _, err := unstructured.NestedSlice(object.Object, "webhooks")
		if err != nil {
			return fmt.Errorf("reading the webhooks of %s: %w", object.GetName(), err)
		}
		for i := range webhooks {
			webhook, ok := webhooks[i].(map[string]any)
			if !ok {
				return fmt.Errorf("reading the webhooks of %s: entry %d is not an object", object.GetName(), i)
			}
			path, _, err := unstructured.NestedString(webhook, "clientConfig", "service", "path")
			if err != nil {
				return fmt.Errorf("reading the webhooks of %s: %w", object.GetName(), err)
			}
			webhook["clientConfig"] = map[string]any{
				"url":      "https://" + address + path,
				"caBundle": encodeBytes(caBundle),
			}
		}
		if err := unstructured.SetNestedSlice(object.Object, webhooks, "webhooks"); err != nil {
			return fmt.Errorf("rewriting the webhooks of %s: %w", object.GetName(), err)
		}
	}
	return nil
}
