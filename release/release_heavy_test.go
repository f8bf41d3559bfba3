//go:build heavy

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"capv-static-ip.dev/release/image"
)

// clone is the project, as its last commit has it, with a section for the version in
// the changelog.
func clone(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "clone")
	git(t, "..", "clone", "--quiet", ".", root)
	path := filepath.Join(root, "CHANGELOG.md")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content = bytes.Replace(content, []byte("## [Unreleased]"), []byte("## [0.1.0] - 2026-01-01"), 1)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
	git(t, root, "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--all", "--message=0.1.0", "--date=2026-01-01T00:00:00Z")
	return root
}

// One release is made twice, because that costs most of the time.
func TestReleaseIsReproducibleAndLoads(t *testing.T) {
	var made []string
	for range 2 {
		root := clone(t)
		if err := run(t.Context(), []string{"-root", root, "-version", "v0.1.0", "-registry", registryOfRelease, "-sign", "cp {in} {out}"}); err != nil {
			t.Fatal(err)
		}
		made = append(made, filepath.Join(root, "dist", "v0.1.0"))
	}
	dist := made[0]
	if first, second := read(t, filepath.Join(dist, sumsFile)), read(t, filepath.Join(made[1], sumsFile)); first != second {
		t.Errorf("the same commit made\n%s\nand then\n%s", first, second)
	}
	command(t, dist, "sha256sum", "--check", "--strict", sumsFile)
	if read(t, filepath.Join(dist, sumsFile+".sigstore.json")) != read(t, filepath.Join(dist, sumsFile)) {
		t.Error("the sums were not signed as SIGN says")
	}
	if notes := read(t, filepath.Join(dist, "RELEASE_NOTES.md")); !strings.Contains(notes, strings.TrimSpace(read(t, filepath.Join(dist, "image.digest")))) ||
		!strings.Contains(notes, "| Kubernetes (management cluster) |") {
		t.Errorf("the notes lack the digest or the versions:\n%s", notes)
	}
	for _, file := range []string{manifestFile, componentsFile} {
		if !strings.Contains(read(t, filepath.Join(dist, file)), "image: "+registryOfRelease+"/capv-static-ip:v0.1.0\n") {
			t.Errorf("%s does not name the image", file)
		}
	}
	t.Run("the programs are static", func(t *testing.T) { programsAreStatic(t, dist) })
	t.Run("the program of each image is static", func(t *testing.T) { imageIsStatic(t, dist) })
	t.Run("the bundle loads into another registry", func(t *testing.T) { bundleLoads(t, dist, "127.0.0.1:0") })
	t.Run("the bundle loads into a registry by IPv6", func(t *testing.T) { bundleLoads(t, dist, "[::1]:0") })
	t.Run("skopeo reads what the release has", func(t *testing.T) { skopeoReads(t, dist) })
	t.Run("skopeo pushes it as the bundle says", func(t *testing.T) { skopeoPushes(t, dist) })
	t.Run("the folders of the archive are those of the bundle", func(t *testing.T) { foldersAreThere(t, dist) })
	t.Run("make push publishes image, provider and chart", func(t *testing.T) { pushes(t, filepath.Dir(filepath.Dir(dist))) })
}

func pushes(t *testing.T, root string) {
	to := registryAt(t, "127.0.0.1:0") + "/capi"

	output := command(t, root, "make", "push", "VERSION=v0.1.0", "REGISTRY="+to, "PLAIN_HTTP=1")

	for _, name := range []string{"capv-static-ip", "capv-static-ip-provider"} {
		if want := "pushed " + to + "/" + name + ":v0.1.0@"; !strings.Contains(output, want) {
			t.Errorf("got %q, without %q", output, want)
		}
	}
	chart := command(t, root, program(t, "helm"), "show", "chart", "oci://"+to+"/charts/capv-static-ip", "--version=0.1.0", "--plain-http")
	if !strings.Contains(chart, "appVersion: v0.1.0\n") {
		t.Errorf("the chart that was pushed is\n%s", chart)
	}
}

// bundleOf unpacks the bundle into a folder with nothing of the project beside it.
func bundleOf(t *testing.T, dist string) string {
	t.Helper()
	dir := t.TempDir()
	command(t, dir, "tar", "xf", filepath.Join(dist, "capv-static-ip-v0.1.0-airgap.tar"))
	return filepath.Join(dir, "capv-static-ip-v0.1.0-airgap")
}

// registryAt starts a registry in memory, and returns where it is.
func registryAt(t *testing.T, address string) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(registry.New())
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// machines are what the programs of an architecture have to be for.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

func programsAreStatic(t *testing.T, dist string) {
	dir := bundleOf(t, dist)
	for architecture, machine := range machines {
		isStatic(t, []byte(read(t, filepath.Join(dir, "bin", "push-linux-"+architecture))), machine)
	}
}

func isStatic(t *testing.T, program []byte, machine elf.Machine) {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := file.ImportedLibraries()
	if err != nil || len(libraries) > 0 || file.Machine != machine || file.Section(".interp") != nil {
		t.Errorf("it is for %s, want %s, and needs %q (error %v)", file.Machine, machine, libraries, err)
	}
}

// imageIsStatic looks at the program in the image of each platform, for which the image
// has no libraries.
func imageIsStatic(t *testing.T, dist string) {
	tag, err := name.NewTag(registryAt(t, "127.0.0.1:0") + "/capi/capv-static-ip:v0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.Push(t.Context(), filepath.Join(dist, imageArchive), tag.String()); err != nil {
		t.Fatal(err)
	}
	for architecture, machine := range machines {
		pulled, err := remote.Image(tag, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
		if err != nil {
			t.Fatal(err)
		}
		layers, err := pulled.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("it has %d layers (error %v)", len(layers), err)
		}
		stream, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		files := tar.NewReader(stream)
		if _, err := files.Next(); err != nil {
			t.Fatal(err)
		}
		program, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		isStatic(t, program, machine)
	}
}

// foldersAreThere checks that who has no bundle has the same folders.
func foldersAreThere(t *testing.T, dist string) {
	dir, bundle := t.TempDir(), bundleOf(t, dist)
	command(t, dir, "tar", "xf", filepath.Join(dist, deployArchive))
	for _, name := range []string{"deploy", "certs"} {
		command(t, dir, "diff", "--recursive", name, filepath.Join(bundle, name))
	}
}

// bundleLoads plays the part of a user without the internet, in a folder with nothing
// of the project beside it.
func bundleLoads(t *testing.T, dist, address string) {
	to := registryAt(t, address) + "/corp"
	dir := bundleOf(t, dist)
	command(t, dir, "sha256sum", "--check", "--strict", sumsFile)

	output := command(t, dir, "./load.sh", to)

	digest := strings.TrimSpace(read(t, filepath.Join(dist, "image.digest")))
	if want := "pushed " + to + "/capv-static-ip:v0.1.0@" + digest; !strings.Contains(output, want) {
		t.Errorf("got %q, want %q", output, want)
	}
	// What was verified is as it was.
	command(t, dir, "sha256sum", "--check", "--strict", sumsFile)
	wanted := "image: " + to + "/capv-static-ip:v0.1.0\n"
	for how, text := range map[string]string{
		"kubectl":    command(t, dir, program(t, "kustomize"), "build", "kubectl"),
		"helm":       command(t, dir, program(t, "helm"), "template", "x", "capv-static-ip-0.1.0.tgz", "-f", "values-airgap.yaml"),
		"clusterctl": command(t, dir, "env", "CLUSTERCTL_DISABLE_VERSIONCHECK=true", program(t, "clusterctl"), "generate", "provider", "--addon", "capv-static-ip", "--config", "clusterctl.yaml"),
		"operator":   read(t, filepath.Join(dir, "operator", "provider-airgap.yaml")),
	} {
		images := regexp.MustCompile(` image: .*\n`).FindAllString(text, -1)
		if len(images) != 1 || strings.NewReplacer(`"`, "", `'`, "").Replace(images[0]) != " "+wanted {
			t.Errorf("%s installs %q, want %q", how, images, wanted)
		}
	}
	artifact := read(t, filepath.Join(dir, "operator", "provider-oci-airgap.yaml"))
	if !strings.Contains(artifact, `oci: "`+to+"/capv-static-ip-provider\"\n") || !strings.Contains(artifact, `imageUrl: "`+to+"/capv-static-ip:v0.1.0\"\n") {
		t.Errorf("the operator pulls other things than were pushed:\n%s", artifact)
	}
	if !strings.Contains(output, "pushed "+to+"/capv-static-ip-provider:v0.1.0@") {
		t.Errorf("got %q, without what the operator pulls", output)
	}
}
