package web

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The checker of accessibility, and the sum of its package.
const (
	axePackage = "axe-core@4.14.1"
	axeFile    = "axe-core-4.14.1.tgz"
	axeSum     = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
)

// axe is the source of axe-core. npm fetches it once, and the user's cache keeps it.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "capv-static-ip", axeFile)
	archive, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		archive, err = fetchAxe(t.Context(), t.TempDir(), path)
	}
	if err != nil {
		t.Fatalf("the tests of the page need %s: %v", axePackage, err)
	}
	if sum := sha256.Sum256(archive); hex.EncodeToString(sum[:]) != axeSum {
		t.Fatalf("%s is not the %s that was looked at: its sum is %x", path, axePackage, sum)
	}
	source, err := fileOf(archive, "package/axe.min.js")
	if err != nil {
		t.Fatalf("unpacking %s: %v", path, err)
	}
	return source
}

// fetchAxe downloads beside the final place and renames: what is there is whole.
func fetchAxe(ctx context.Context, dir, path string) ([]byte, error) {
	npm := exec.CommandContext(ctx, "npm", "pack", "--silent", axePackage)
	npm.Dir = dir
	if output, err := npm.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("npm pack, which fetches it: %w: %s", err, output)
	}
	archive, err := os.ReadFile(filepath.Join(dir, axeFile))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(temporary, archive, 0o600); err != nil {
		return nil, err
	}
	return archive, os.Rename(temporary, path)
}

func fileOf(archive []byte, name string) (string, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return "", err
	}
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if err != nil {
			return "", fmt.Errorf("looking for %s: %w", name, err)
		}
		if header.Name == name {
			content, err := io.ReadAll(files)
			return string(content), err
		}
	}
}
