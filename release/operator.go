package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

const operatorNamespace = product + "-system"

// operatorWithConfigMap is what the operator of Cluster API is given where it reaches no
// repository: a ConfigMap with our files, named by the version, and an AddonProvider.
func (r *release) operatorWithConfigMap() (string, error) {
	data := map[string]string{}
	for key, file := range map[string]string{"components": componentsFile, "metadata": metadataFile} {
		content, err := os.ReadFile(filepath.Join(r.out, file))
		if err != nil {
			return "", err
		}
		data[key] = string(content)
	}
	label := map[string]any{"provider-components": product}
	return documents(ownNamespace(), map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": r.version, "namespace": operatorNamespace, "labels": label},
		"data":     data,
	}, addonProvider(map[string]any{
		"version":     r.version,
		"fetchConfig": map[string]any{"selector": map[string]any{"matchLabels": label}},
	}))
}

// operatorWithArtifact is the same where the operator pulls our files from a registry.
// It names the image, too: what is pulled names that of the release.
func (r *release) operatorWithArtifact() (string, error) {
	return documents(ownNamespace(), addonProvider(map[string]any{
		"version":     r.version,
		"fetchConfig": map[string]any{"oci": r.provider()},
		"deployment":  map[string]any{"containers": []any{map[string]any{"name": "manager", "imageUrl": r.image()}}},
	}))
}

// ownNamespace is ours with its label, which the operator does not take from our files.
func ownNamespace() map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
		"name":   operatorNamespace,
		"labels": map[string]any{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
}

func addonProvider(spec map[string]any) map[string]any {
	return map[string]any{
		"apiVersion": "operator.cluster.x-k8s.io/v1alpha2", "kind": "AddonProvider",
		"metadata": map[string]any{"name": product, "namespace": operatorNamespace},
		"spec":     spec,
	}
}

func documents(objects ...map[string]any) (string, error) {
	var all []string
	for _, object := range objects {
		text, err := yaml.Marshal(object)
		if err != nil {
			return "", fmt.Errorf("writing what the operator reads: %w", err)
		}
		all = append(all, string(text))
	}
	return strings.Join(all, "---\n"), nil
}
