//go:build heavy

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"capv-static-ip.dev/tests/harness"
)

const (
	bundledVersion = "v0.1.0"
	// nextVersion is of the same series.
	nextVersion = "v0.1.1"
	bundleName  = "capv-static-ip-" + bundledVersion + "-airgap"
)

// archive is the airgap bundle of a release of the last commit, made once. BUNDLE=path
// takes one that was made before.
var archive = sync.OnceValues(func() ([]byte, error) {
	if path := os.Getenv("BUNDLE"); path != "" {
		return os.ReadFile(path)
	}
	dir, err := os.MkdirTemp("", "release-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	root := filepath.Join(dir, "clone")
	if _, err := execute(context.Background(), ".", "git", "clone", "--quiet", shared.Plane.Root(), root); err != nil {
		return nil, err
	}
	changelog := filepath.Join(root, "CHANGELOG.md")
	content, err := os.ReadFile(changelog)
	if err != nil {
		return nil, err
	}
	content = bytes.Replace(content, []byte("## [Unreleased]"), []byte("## [0.1.0] - 2026-01-01"), 1)
	if err := os.WriteFile(changelog, content, 0o600); err != nil {
		return nil, err
	}
	for _, command := range [][]string{
		{"git", "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--all", "--message=0.1.0"},
		{"make", "release", "VERSION=" + bundledVersion, "REGISTRY=registry.example.com/capi"},
	} {
		if _, err := execute(context.Background(), root, command[0], command[1:]...); err != nil {
			return nil, err
		}
	}
	return os.ReadFile(filepath.Join(root, "dist", bundledVersion, bundleName+".tar"))
})

// execute runs a program in a folder, and returns all that it prints.
func execute(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, output)
	}
	return string(output), nil
}

// bundle unpacks the bundle into a folder with nothing of the project beside it,
// verifies it, and loads it into a registry, both of which are returned.
func bundle(t *testing.T, plane *harness.ControlPlane) (dir, registry string) {
	t.Helper()
	content, err := archive()
	if err != nil {
		t.Fatal(err)
	}
	port, err := plane.Port()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if _, err := plane.StartProgram(t.Context(), harness.Program{
		Name: "registry", Binary: "registry", Args: []string{fmt.Sprintf("-port=%d", port)}, ReadyURL: "http://" + address + "/v2/",
	}); err != nil {
		t.Fatal(err)
	}
	unpacked := t.TempDir()
	file := filepath.Join(unpacked, "bundle.tar")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, registry = filepath.Join(unpacked, bundleName), address+"/corp"
	runs(t, unpacked, "tar", "xf", file)
	runs(t, dir, "sha256sum", "--check", "--strict", "SHA256SUMS")
	runs(t, dir, "./load.sh", registry)
	return dir, registry
}

// runs is execute for what has to work.
func runs(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	output, err := execute(t.Context(), dir, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}
