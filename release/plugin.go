package main

import (
	"context"
	"path/filepath"
	"strings"
)

const (
	plugin = "kubectl-static_ip"
	// completion is what kubectl asks for words that may follow, if it finds it. It lies
	// beside the sources of the plugin.
	completion = "kubectl_complete-static_ip"
)

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
			if err := copyFile(filepath.Join(r.root, "cmd", plugin, completion), filepath.Join(dir, completion)); err != nil {
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
