// Package image makes container images without a container runtime: one static
// binary for each platform, as an OCI layout that is the same for the same input.
package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// User is whom the image runs as, as numbers, so that runAsNonRoot can be verified
// without a passwd file.
const User = "65532:65532"

// Spec says what is in an image.
type Spec struct {
	// Reference is the name of the image, with its tag.
	Reference string
	// Name is what the binary is called in the image.
	Name string
	// Created is when the image says that it was made.
	Created time.Time
	// Labels are those of the image.
	Labels map[string]string
	// Binaries are paths of the binary, by architecture of linux.
	Binaries []Binary
}

// Binary is the program for one architecture.
type Binary struct{ Architecture, Path string }

// Write writes the image into a new folder, as an OCI layout, reads it back, and
// returns its digest.
func Write(dir string, spec Spec) (v1.Hash, error) {
	var platforms []mutate.IndexAddendum
	for _, binary := range spec.Binaries {
		img, err := spec.image(binary)
		if err != nil {
			return v1.Hash{}, fmt.Errorf("making the image for %s: %w", binary.Architecture, err)
		}
		platforms = append(platforms, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: binary.Architecture},
		}})
	}
	index := mutate.IndexMediaType(mutate.AppendManifests(empty.Index, platforms...), types.OCIImageIndex)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("writing an image layout: %w", err)
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(named(spec.Reference))); err != nil {
		return v1.Hash{}, fmt.Errorf("writing an image layout: %w", err)
	}
	// What was read back, because what is in memory differs from it in what is empty.
	written, err := read(dir)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := validate.Index(written.platforms); err != nil {
		return v1.Hash{}, fmt.Errorf("validating the image layout: %w", err)
	}
	return written.digest, nil
}

// named are the annotations by which programs that load a layout name what is in it.
func named(reference string) map[string]string {
	return map[string]string{"org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference}
}

// Platform is what an image is for one platform.
type Platform struct{ Name, Digest string }

// Platforms are those of the image in a layout.
func Platforms(dir string) ([]Platform, error) {
	found, err := read(dir)
	if err != nil {
		return nil, err
	}
	if found.platforms == nil {
		return nil, errors.New("reading the layout: it has no image for several platforms")
	}
	manifest, err := found.platforms.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading the layout: %w", err)
	}
	var platforms []Platform
	for _, each := range manifest.Manifests {
		platforms = append(platforms, Platform{Name: each.Platform.String(), Digest: each.Digest.String()})
	}
	return platforms, nil
}

// image is the image for one architecture.
func (s Spec) image(binary Binary) (v1.Image, error) {
	layer, err := s.layer(binary.Path)
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: s.Created}
	base := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "make release"}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", binary.Architecture, created
	config.Config = v1.Config{User: User, Entrypoint: []string{"/" + s.Name}, Labels: s.Labels}
	return mutate.ConfigFile(img, config)
}

// layer has the binary, and nothing else.
func (s Spec) layer(path string) (v1.Layer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	header := &tar.Header{Name: s.Name, Mode: 0o755, Size: int64(len(content)), ModTime: s.Created, Format: tar.FormatPAX}
	if err := writer.WriteHeader(header); err != nil {
		return nil, err
	}
	_, err = writer.Write(content)
	if err := errors.Join(err, writer.Close()); err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	return tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer))
}

// content is what a layout has: an image for several platforms, or an artifact.
type content struct {
	digest    v1.Hash
	platforms v1.ImageIndex
	artifact  v1.Image
}

// read returns the only content of a layout.
func read(dir string) (content, error) {
	all, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return content{}, fmt.Errorf("reading the layout: %w", err)
	}
	manifest, err := all.IndexManifest()
	if err != nil {
		return content{}, fmt.Errorf("reading the layout: %w", err)
	}
	if len(manifest.Manifests) != 1 {
		return content{}, fmt.Errorf("reading the layout: it has %d images, not one", len(manifest.Manifests))
	}
	found := content{digest: manifest.Manifests[0].Digest}
	if manifest.Manifests[0].MediaType.IsIndex() {
		found.platforms, err = all.ImageIndex(found.digest)
	} else {
		found.artifact, err = all.Image(found.digest)
	}
	if err != nil {
		return content{}, fmt.Errorf("reading the layout: %w", err)
	}
	return found, nil
}

// unpack unpacks an archive of a layout into a folder.
func unpack(archive, dir string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	reader := tar.NewReader(file)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", archive, err)
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		if !filepath.IsLocal(header.Name) {
			return fmt.Errorf("unpacking %s: it has %s, which is outside of it", archive, header.Name)
		}
		if err := unpackFile(filepath.Join(dir, header.Name), reader); err != nil {
			return fmt.Errorf("unpacking %s: %w", archive, err)
		}
	}
}

func unpackFile(path string, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Close())
}
