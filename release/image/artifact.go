package image

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// fileTitle is the annotation by which readers of artifacts, as the operator of Cluster
// API, know the files in them.
const fileTitle = "org.opencontainers.image.title"

// File is one file of an artifact.
type File struct {
	Name    string
	Content []byte
}

// WriteArtifact writes files that are no image into a new folder, as an OCI layout of
// one artifact with this name, reads it back, and returns its digest.
func WriteArtifact(dir, reference string, files []File) (v1.Hash, error) {
	base := mutate.MediaType(mutate.ConfigMediaType(empty.Image, "application/vnd.unknown.config.v1+json"), types.OCIManifestSchema1)
	var layers []mutate.Addendum
	for _, file := range files {
		layers = append(layers, mutate.Addendum{
			Layer:       static.NewLayer(file.Content, "application/yaml"),
			Annotations: map[string]string{fileTitle: file.Name},
			MediaType:   "application/yaml",
		})
	}
	artifact, err := mutate.Append(base, layers...)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("making an artifact: %w", err)
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("writing an artifact: %w", err)
	}
	if err := path.AppendImage(artifact, layout.WithAnnotations(named(reference))); err != nil {
		return v1.Hash{}, fmt.Errorf("writing an artifact: %w", err)
	}
	written, err := read(dir)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := validate.Image(written.artifact); err != nil {
		return v1.Hash{}, fmt.Errorf("validating an artifact: %w", err)
	}
	return written.digest, nil
}
