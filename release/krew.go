package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

const krewFile = "static-ip.krew.yaml"

// pluginArchive is the name of the plugin's archive for a platform.
func pluginArchive(platform string) string {
	return plugin + "-" + strings.ReplaceAll(platform, "/", "-") + ".tar.gz"
}

// makeKrew says to krew what the plugin's archives are. Nobody knows yet where they will
// be, so their place is their name: krew is given the archive itself.
func (r *release) makeKrew(context.Context) error {
	var platforms []any
	for _, platform := range pluginPlatforms {
		system, architecture, _ := strings.Cut(platform, "/")
		archive := pluginArchive(platform)
		sum, err := digest(filepath.Join(r.out, archive))
		if err != nil {
			return fmt.Errorf("summing up the plugin: %w", err)
		}
		binary := plugin
		if system == "windows" {
			binary += ".exe"
		}
		platforms = append(platforms, map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"os": system, "arch": architecture}},
			"uri":      archive, "sha256": sum, "bin": binary,
		})
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "krew.googlecontainertools.github.com/v1alpha2", "kind": "Plugin",
		"metadata": map[string]any{"name": "static-ip"},
		"spec": map[string]any{
			"version":          r.version,
			"shortDescription": "Show addresses of VSphereMachines and their pools",
			"description":      "How full pools are, who has their addresses, and why a machine has none, where capv-static-ip gives addresses to the machines of CAPV.\n",
			"platforms":        platforms,
		},
	})
	if err != nil {
		return fmt.Errorf("writing what krew reads: %w", err)
	}
	return os.WriteFile(filepath.Join(r.out, krewFile), text, 0o644)
}
