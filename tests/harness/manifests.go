package harness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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

// renderOnce renders a folder whose content never changes, which is that of a
// module, and keeps the result for all later runs: rendering the definitions of
// all APIs costs more than starting the servers.
func (c *ControlPlane) renderOnce(ctx context.Context, dir string) (manifests, error) {
	kustomize, err := c.builder.Path(ctx, "kustomize")
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256([]byte(kustomize + "\n" + dir))
	path := filepath.Join(c.builder.Cache, "manifests", hex.EncodeToString(key[:])[:16]+".json")
	if content, err := os.ReadFile(path); err == nil {
		var objects manifests
		return objects, json.Unmarshal(content, &objects)
	}
	objects, err := c.render(ctx, dir)
	if err != nil {
		return nil, err
	}
	return objects, keep(path, objects)
}

// keep writes beside the final place and renames, so that a file that is there
// is always whole.
func keep(path string, objects manifests) error {
	content, err := json.Marshal(objects)
	if err != nil {
		return fmt.Errorf("keeping rendered manifests: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keeping rendered manifests: %w", err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return fmt.Errorf("keeping rendered manifests: %w", err)
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	if err := errors.Join(err, temporary.Close()); err != nil {
		return fmt.Errorf("keeping rendered manifests: %w", err)
	}
	return os.Rename(temporary.Name(), path)
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
		// Where cert-manager runs, it would look for what is not its own here.
		object.SetAnnotations(nil)
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
