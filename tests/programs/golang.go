package programs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// goOutput runs the go command in a module's folder and returns what it prints.
func (b *Builder) goOutput(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = hostEnvironment()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("running go %s in %s: %w\n%s", strings.Join(args, " "), dir, err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// hostEnvironment is ours without what would build for another machine than
// this one, or through another module than that of the folder.
func hostEnvironment() []string {
	env := os.Environ()[:0:0]
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		switch name {
		case "GOOS", "GOARCH", "GOWORK", "CGO_ENABLED", "PWD":
		default:
			env = append(env, entry)
		}
	}
	return append(env, "GOWORK=off", "CGO_ENABLED=0")
}

// ModuleDir returns the folder with the source of a module that the project,
// or one of the program families (as "metal3-ipam"), requires. It downloads the
// module if it is not there yet. The family of the project itself is "".
func (b *Builder) ModuleDir(ctx context.Context, family, module string) (string, error) {
	dir := b.Root
	if family != "" {
		dir = filepath.Join(b.Root, "tests", "programs", family)
	}
	list := []string{"list", "-m", "-f", "{{.Dir}}", module}
	found, err := b.goOutput(ctx, dir, list...)
	if err != nil || found != "" {
		return found, err
	}
	done := b.step("downloading " + module)
	if _, err := b.goOutput(ctx, dir, "mod", "download", module); err != nil {
		return "", err
	}
	done()
	return b.goOutput(ctx, dir, list...)
}
