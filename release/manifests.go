package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"capv-static-ip.dev/release/image"
)

const (
	manifestFile    = product + ".yaml"
	componentsFile  = "addon-components.yaml"
	metadataFile    = "metadata.yaml"
	providerArchive = product + "-provider.oci.tar"
)

// makeManifests renders one file for kubectl and one for clusterctl.
func (r *release) makeManifests(ctx context.Context) error {
	for folder, file := range map[string]string{"deploy/default": manifestFile, "deploy/clusterctl": componentsFile} {
		if err := r.render(ctx, folder, file); err != nil {
			return err
		}
	}
	return copyFile(filepath.Join(r.root, metadataFile), filepath.Join(r.out, metadataFile))
}

// makeProvider packs what the operator of Cluster API can pull from a registry.
func (r *release) makeProvider(context.Context) error {
	var files []image.File
	for _, name := range []string{componentsFile, metadataFile} {
		content, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		files = append(files, image.File{Name: name, Content: content})
	}
	dir := filepath.Join(r.work, "provider")
	if _, err := image.WriteArtifact(dir, r.provider()+":"+r.version, files); err != nil {
		return err
	}
	return r.archive(dir, filepath.Join(r.out, providerArchive))
}

// render renders a folder with the image of the release. An overlay would not do:
// kustomize keeps the order of objects of the outermost folder only.
func (r *release) render(ctx context.Context, folder, file string) error {
	kustomize, err := r.program(ctx, "kustomize")
	if err != nil {
		return err
	}
	text, err := r.output(ctx, kustomize, "build", folder)
	if err != nil {
		return err
	}
	text, err = replaceOnce(text, "image: "+product+":dev\n", "image: "+r.image()+"\n")
	if err != nil {
		return fmt.Errorf("rendering %s: %w", folder, err)
	}
	return os.WriteFile(filepath.Join(r.out, file), []byte(text+"\n"), 0o644)
}

func replaceOnce(text, old, replacement string) (string, error) {
	if count := strings.Count(text, old); count != 1 {
		return "", fmt.Errorf("%q is there %d times, not once", old, count)
	}
	return strings.Replace(text, old, replacement, 1), nil
}

// makeChart packs the chart, which then is of this version, and has this image.
func (r *release) makeChart(ctx context.Context) error {
	chart := filepath.Join(r.work, "chart", product)
	if err := copyFolder(filepath.Join(r.root, "deploy", "chart", product), chart); err != nil {
		return err
	}
	values := filepath.Join(chart, "values.yaml")
	content, err := os.ReadFile(values)
	if err != nil {
		return err
	}
	text, err := replaceOnce(string(content), "\n  registry: \"\"\n", "\n  registry: "+r.registry+"\n")
	if err != nil {
		return fmt.Errorf("naming the registry in values.yaml: %w", err)
	}
	if err := os.WriteFile(values, []byte(text), 0o644); err != nil {
		return err
	}
	helm, err := r.program(ctx, "helm")
	if err != nil {
		return err
	}
	_, err = r.output(ctx, helm, "package", chart, "--version", r.number(), "--app-version", r.version, "--destination", r.out)
	return err
}
