package image

import (
	"archive/tar"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// made makes an image of two platforms, and returns its digest.
func made(t *testing.T, dir string) v1.Hash {
	t.Helper()
	spec := Spec{Reference: "r.example.com/capv-static-ip:v0.1.0", Name: "capv-static-ip", Created: time.Unix(1_700_000_000, 0).UTC()}
	for _, architecture := range []string{"amd64", "arm64"} {
		path := filepath.Join(t.TempDir(), architecture)
		if err := os.WriteFile(path, []byte("for "+architecture), 0o600); err != nil {
			t.Fatal(err)
		}
		spec.Binaries = append(spec.Binaries, Binary{Architecture: architecture, Path: path})
	}
	digest, err := Write(dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func TestSameBinariesMakeTheSameImage(t *testing.T) {
	if first, second := made(t, t.TempDir()), made(t, t.TempDir()); first != second {
		t.Errorf("got %s, and then %s", first, second)
	}
}

// archived packs a folder as a release does.
func archived(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	writer := tar.NewWriter(file)
	if err := errors.Join(writer.AddFS(os.DirFS(dir)), writer.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPushedImageHasOneProgramForEachPlatform(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	dir := t.TempDir()
	want := made(t, dir)
	reference := strings.TrimPrefix(server.URL, "http://") + "/capi/capv-static-ip:v0.1.0"

	pushed, err := Push(t.Context(), archived(t, dir), reference)
	if err != nil {
		t.Fatal(err)
	}

	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if got, err := index.Digest(); err != nil || got != want || pushed != want {
		t.Errorf("made %s, pushed %s, and pulled %s (error %v)", want, pushed, got, err)
	}
	platforms, err := Platforms(dir)
	if err != nil || len(platforms) != 2 {
		t.Fatalf("it is for %v (error %v)", platforms, err)
	}
	for i, architecture := range []string{"amd64", "arm64"} {
		img, err := remote.Image(tag, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, img, "for "+architecture)
		if digest, err := img.Digest(); err != nil || platforms[i] != (Platform{Name: "linux/" + architecture, Digest: digest.String()}) {
			t.Errorf("pulled %s for %s (error %v), and it is said to be %v", digest, architecture, err, platforms[i])
		}
	}
}

func checkImage(t *testing.T, img v1.Image, want string) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65532:65532" || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/capv-static-ip" {
		t.Errorf("user %q runs %q", config.Config.User, config.Config.Entrypoint)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("got %d layers, error %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	reader := tar.NewReader(content)
	header, err := reader.Next()
	if err != nil {
		t.Fatal(err)
	}
	program, err := io.ReadAll(reader)
	if err != nil || header.Name != "capv-static-ip" || header.Mode != 0o755 || string(program) != want {
		t.Errorf("it has %s, mode %o, with %q (error %v)", header.Name, header.Mode, program, err)
	}
	if _, err := reader.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("it has more than one file (error %v)", err)
	}
}

func TestPushedArtifactHasItsFilesUnderTheirNames(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	dir := t.TempDir()
	reference := strings.TrimPrefix(server.URL, "http://") + "/capi/provider:v0.1.0"
	files := []File{{"addon-components.yaml", []byte("kind: Namespace\n")}, {"metadata.yaml", []byte("kind: Metadata\n")}}
	want, err := WriteArtifact(dir, reference, files)
	if err != nil {
		t.Fatal(err)
	}

	pushed, err := Push(t.Context(), archived(t, dir), reference)
	if err != nil {
		t.Fatal(err)
	}

	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(tag)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pulled.Digest(); err != nil || got != want || pushed != want {
		t.Errorf("made %s, pushed %s, and pulled %s (error %v)", want, pushed, got, err)
	}
	manifest, err := pulled.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, layer := range manifest.Layers {
		found, err := pulled.LayerByDigest(layer.Digest)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := found.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(stream)
		if err != nil || layer.Annotations["org.opencontainers.image.title"] != files[i].Name || string(content) != string(files[i].Content) {
			t.Errorf("got %v with %q (error %v), want %s", layer.Annotations, content, err, files[i].Name)
		}
	}
	if len(manifest.Layers) != len(files) {
		t.Errorf("it has %d files", len(manifest.Layers))
	}
}

func TestArchiveThatLeavesItsFolderIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bad.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	writer := tar.NewWriter(file)
	if err := errors.Join(writer.WriteHeader(&tar.Header{Name: "../outside", Mode: 0o644}), writer.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), path, "localhost:1/x:v1"); err == nil || !strings.Contains(err.Error(), "outside of it") {
		t.Errorf("got error %v", err)
	}
}

func TestImageWithoutATagIsNotPushed(t *testing.T) {
	if _, err := Push(t.Context(), "nothing.tar", "localhost:1/x"); err == nil || !strings.Contains(err.Error(), "reading the name") {
		t.Errorf("got error %v", err)
	}
}
