package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"sigs.k8s.io/krew/pkg/index"
	"sigs.k8s.io/yaml"
)

func TestKrewKnowsEveryFieldOfItsManifest(t *testing.T) {
	r := &release{version: "v0.1.0", out: t.TempDir()}
	for _, platform := range pluginPlatforms {
		if err := os.WriteFile(filepath.Join(r.out, pluginArchive(platform)), []byte(platform), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.makeKrew(t.Context()); err != nil {
		t.Fatal(err)
	}

	content, err := os.ReadFile(filepath.Join(r.out, krewFile))
	if err != nil {
		t.Fatal(err)
	}
	var manifest index.Plugin
	if err := yaml.UnmarshalStrict(content, &manifest); err != nil {
		t.Fatal(err)
	}
	if manifest.Name != "static-ip" || manifest.Spec.Version != "v0.1.0" || manifest.Spec.ShortDescription == "" {
		t.Errorf("it is %s %s, %q", manifest.Name, manifest.Spec.Version, manifest.Spec.ShortDescription)
	}
	if len(manifest.Spec.Platforms) != len(pluginPlatforms) {
		t.Errorf("it has %d platforms, want %d", len(manifest.Spec.Platforms), len(pluginPlatforms))
	}
	for _, platform := range manifest.Spec.Platforms {
		if platform.Bin == "" || platform.URI == "" || platform.Selector == nil || len(platform.Selector.MatchLabels) != 2 ||
			!regexp.MustCompile(`^[a-f0-9]{64}$`).MatchString(platform.Sha256) {
			t.Errorf("krew would refuse %+v", platform)
		}
	}
}
