package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"capv-static-ip.dev/release/image"
)

// architectures are those of the image, all of linux.
var architectures = []string{"amd64", "arm64"}

// makeImage makes the image, and says what its binaries are made of.
func (r *release) makeImage(ctx context.Context) error {
	spec := image.Spec{
		Reference: r.image(), Name: product, Created: r.date,
		Labels: map[string]string{
			"org.opencontainers.image.title":    product,
			"org.opencontainers.image.version":  r.version,
			"org.opencontainers.image.revision": r.commit,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	for _, architecture := range architectures {
		binary := filepath.Join(r.work, product+"-linux-"+architecture)
		if err := r.compile(ctx, r.root, "./cmd/capv-static-ip", "linux/"+architecture, binary); err != nil {
			return err
		}
		if err := r.makeSBOM(ctx, binary); err != nil {
			return err
		}
		spec.Binaries = append(spec.Binaries, image.Binary{Architecture: architecture, Path: binary})
	}
	dir := filepath.Join(r.work, "image")
	digest, err := image.Write(dir, spec)
	if err != nil {
		return err
	}
	r.digest = digest.String()
	if r.platforms, err = image.Platforms(dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.out, "image.digest"), []byte(r.digest+"\n"), 0o644); err != nil {
		return err
	}
	return r.archive(dir, filepath.Join(r.out, imageArchive))
}

const imageArchive = product + "-image.oci.tar"

// makeSBOM says which modules are in a binary.
func (r *release) makeSBOM(ctx context.Context, binary string) error {
	program, err := r.program(ctx, "cyclonedx-gomod")
	if err != nil {
		return err
	}
	to := filepath.Join(r.out, fmt.Sprintf("sbom-%s.cdx.json", filepath.Base(binary)))
	_, err = r.output(ctx, program, "bin", "-json", "-noserial", "-notimestamp", "-std", "-version", r.version, "-output", to, binary)
	return err
}
