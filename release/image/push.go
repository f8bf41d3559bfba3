package image

import (
	"context"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Push pushes the image of an archive, with all of its platforms, or the artifact, under
// a name, and returns its digest. Credentials come from the user's docker configuration. What the
// registry has already is not sent again.
func Push(ctx context.Context, archive, reference string) (v1.Hash, error) {
	to, err := name.NewTag(reference, name.StrictValidation)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("reading the name of the image: %w", err)
	}
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return v1.Hash{}, fmt.Errorf("making a folder for the image: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := unpack(archive, dir); err != nil {
		return v1.Hash{}, err
	}
	found, err := read(dir)
	if err != nil {
		return v1.Hash{}, err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	if found.platforms != nil {
		err = remote.WriteIndex(to, found.platforms, options...)
	} else {
		err = remote.Write(to, found.artifact, options...)
	}
	if err != nil {
		return v1.Hash{}, fmt.Errorf("pushing %s: %w", reference, err)
	}
	return found.digest, nil
}
