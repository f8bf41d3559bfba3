package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

const plugin = "kubectl-static_ip"

var pluginPlatforms = []string{"darwin/amd64", "darwin/arm64", "linux/amd64", "linux/arm64", "windows/amd64", "windows/arm64"}

// makePlugin makes an archive of the kubectl plugin for each platform.
func (r *release) makePlugin(ctx context.Context) error {
	for _, platform := range pluginPlatforms {
		archive := pluginArchive(platform)
		dir := filepath.Join(r.work, strings.TrimSuffix(archive, ".tar.gz"))
		binary := filepath.Join(dir, plugin)
		if strings.HasPrefix(platform, "windows/") {
			binary += ".exe"
		}
		if err := r.compile(ctx, r.root, "./cmd/"+plugin, platform, binary); err != nil {
			return err
		}
		if !strings.HasPrefix(platform, "windows/") {
			if err := os.WriteFile(filepath.Join(dir, completion), []byte(completionScript), 0o755); err != nil {
				return err
			}
		}
		if err := copyFile(filepath.Join(r.root, "LICENSE"), filepath.Join(dir, "LICENSE")); err != nil {
			return err
		}
		if err := r.archive(dir, filepath.Join(r.out, archive)); err != nil {
			return err
		}
	}
	return nil
}
