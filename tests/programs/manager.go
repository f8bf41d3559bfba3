package programs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// managerLifetime is how long the binary of an earlier state of the sources is
// kept: test runs that started with it may start it again.
const managerLifetime = 24 * time.Hour

// Manager builds the project's own program from the sources as they are, and
// returns its path. The path names the content, so that a build during a test
// run does not change the program under it.
func (b *Builder) Manager(ctx context.Context) (string, error) {
	return b.manager(ctx, "capv-static-ip")
}

// manager builds the project's own program into a folder of the cache, with more flags
// for the go command.
func (b *Builder) manager(ctx context.Context, folder string, flags ...string) (string, error) {
	unlock, err := b.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()

	dir := filepath.Join(b.Cache, folder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("building the manager: %w", err)
	}
	// The go command links only if this file, the latest build, is out of date.
	latest := filepath.Join(dir, "latest")
	start := time.Now()
	args := slices.Concat([]string{"build", "-buildvcs=false", "-trimpath"}, flags, []string{"-o", latest, "./cmd/capv-static-ip"})
	if _, err := b.goOutput(ctx, b.Root, args...); err != nil {
		return "", fmt.Errorf("building the manager: %w", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		fmt.Fprintf(b.Progress, "building capv-static-ip: done in %s\n", took.Round(100*time.Millisecond))
	}
	sum, err := contentSum(latest)
	if err != nil {
		return "", fmt.Errorf("building the manager: %w", err)
	}
	prune(dir)
	path := filepath.Join(dir, "capv-static-ip-"+sum)
	if exists(path) {
		return path, os.Chtimes(path, time.Time{}, time.Now())
	}
	return path, copyFile(latest, path)
}

func contentSum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// prune drops old binaries. One that is running keeps running, and one that
// cannot be removed does no harm.
func prune(dir string) {
	paths, err := filepath.Glob(filepath.Join(dir, "capv-static-ip-*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > managerLifetime {
			_ = os.Remove(path)
		}
	}
}

// copyFile copies a program. A link would not do: the go command may write into
// its output file in place.
func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	temporary := to + ".new"
	target, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fs.FileMode(0o755))
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	if err := errors.Join(err, target.Close()); err != nil {
		return err
	}
	return os.Rename(temporary, to)
}
