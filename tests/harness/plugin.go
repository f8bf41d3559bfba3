package harness

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// BuildPlugin builds kubectl static-ip of the project in this folder, and returns where it
// is: in a folder that can be put on the PATH of kubectl.
func BuildPlugin(ctx context.Context, root, into string) (string, error) {
	path := filepath.Join(into, "kubectl-static_ip")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, "./cmd/kubectl-static_ip")
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the plugin: %w\n%s", err, output)
	}
	return path, nil
}
