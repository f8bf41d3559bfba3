package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const plugin = "kubectl-static_ip"

var pluginPlatforms = []string{"darwin/amd64", "darwin/arm64", "linux/amd64", "linux/arm64", "windows/amd64", "windows/arm64"}

// makePlugin makes an archive of the kubectl plugin for each platform, if the project
// has one.
func (r *release) makePlugin(ctx context.Context) error {
	pkg := "./cmd/" + plugin
	if _, err := os.Stat(filepath.Join(r.root, pkg)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, platform := range pluginPlatforms {
		name := plugin + "-" + strings.ReplaceAll(platform, "/", "-")
		dir := filepath.Join(r.work, name)
		binary := filepath.Join(dir, plugin)
		if strings.HasPrefix(platform, "windows/") {
			binary += ".exe"
		}
		if err := r.compile(ctx, r.root, pkg, platform, binary); err != nil {
			return err
		}
		if err := copyFile(filepath.Join(r.root, "LICENSE"), filepath.Join(dir, "LICENSE")); err != nil {
			return err
		}
		if err := r.archive(dir, filepath.Join(r.out, name+".tar.gz")); err != nil {
			return err
		}
	}
	return nil
}
