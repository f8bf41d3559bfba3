package main

import (
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"strings"
)

// pushPlatforms are those of machines that images are pushed from.
var pushPlatforms = []string{"linux/amd64", "linux/arm64"}

//go:embed airgap/load.sh
var loadScript string

//go:embed airgap/README.txt
var bundleReadme string

// makeBundle makes one archive with all that an installation without the internet
// needs, and what pushes the image there.
func (r *release) makeBundle(ctx context.Context) error {
	name := product + "-" + r.version + "-airgap"
	top := filepath.Join(r.work, "bundle")
	dir := filepath.Join(top, name)
	if err := r.fillBundle(dir); err != nil {
		return err
	}
	for _, platform := range pushPlatforms {
		to := filepath.Join(dir, "bin", "push-"+strings.ReplaceAll(platform, "/", "-"))
		if err := r.compile(ctx, filepath.Join(r.root, "release"), "./push", platform, to); err != nil {
			return err
		}
	}
	if err := writeSums(dir); err != nil {
		return err
	}
	return r.archive(top, filepath.Join(r.out, name+".tar"))
}

// fillBundle copies what was made to where load.sh and its users look for it.
func (r *release) fillBundle(dir string) error {
	files := map[string]string{
		imageArchive:       "images/" + imageArchive,
		"image.digest":     "images/image.digest",
		providerArchive:    "images/" + providerArchive,
		krewFile:           krewFile,
		"RELEASE_NOTES.md": "RELEASE_NOTES.md",
		r.chartFile():      r.chartFile(),
	}
	for _, pattern := range []string{plugin + "-*", "sbom-*"} {
		found, err := filepath.Glob(filepath.Join(r.out, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			files[filepath.Base(path)] = filepath.Base(path)
		}
	}
	if err := r.copyMade(files, dir); err != nil {
		return err
	}
	return r.fillTexts(dir)
}

func (r *release) copyMade(files map[string]string, dir string) error {
	for from, to := range files {
		if err := copyFile(filepath.Join(r.out, from), filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	return nil
}

// fillTexts is the part of the bundle that takes no time to make: manifests, the
// documentation, and what it tells to apply.
func (r *release) fillTexts(dir string) error {
	manifests := map[string]string{manifestFile: "kubectl/" + manifestFile}
	for _, file := range []string{componentsFile, metadataFile} {
		// The layout of clusterctl's local repositories.
		manifests[file] = filepath.Join("addon-"+product, r.version, file)
	}
	if err := r.copyMade(manifests, dir); err != nil {
		return err
	}
	for _, name := range []string{"docs", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"} {
		if err := copyFolder(filepath.Join(r.root, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := r.fillDeploy(dir); err != nil {
		return err
	}
	return r.writeTexts(dir)
}

func (r *release) chartFile() string { return product + "-" + r.number() + ".tgz" }

// writeTexts writes what names the version or the image.
func (r *release) writeTexts(dir string) error {
	fromConfigMap, err := r.operatorWithConfigMap()
	if err != nil {
		return err
	}
	fromArtifact, err := r.operatorWithArtifact()
	if err != nil {
		return err
	}
	certManager, err := r.testedWith("cert-manager")
	if err != nil {
		return err
	}
	replace := strings.NewReplacer("@VERSION@", r.version, "@NUMBER@", r.number(), "@CERT_MANAGER@", certManager,
		"@REGISTRY@", r.registry, "@REGISTRY_PATTERN@", strings.ReplaceAll(r.registry, ".", `\.`))
	for name, text := range map[string]string{
		"load.sh":                    replace.Replace(loadScript),
		"README.txt":                 replace.Replace(bundleReadme),
		"images.txt":                 r.image() + "\n",
		"operator/provider.yaml":     fromConfigMap,
		"operator/provider-oci.yaml": fromArtifact,
	} {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}
