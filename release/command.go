package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// output runs a program in the project's folder and returns what it prints.
func (r *release) output(ctx context.Context, program string, args ...string) (string, error) {
	return r.outputIn(ctx, r.root, nil, program, args...)
}

// outputIn is output in another folder, with more in the environment.
func (r *release) outputIn(ctx context.Context, dir string, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // programs of our own, and what they name
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(r.date.Unix(), 10))
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("running %s %s: %w\n%s%s", filepath.Base(program), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// program returns the path of a program at its pinned version.
func (r *release) program(ctx context.Context, name string) (string, error) {
	return r.output(ctx, "go", "run", "./tests/programs/build", name)
}

// compile builds a package of a module of ours for a platform. Nothing of this machine
// or of the day goes into the binary.
func (r *release) compile(ctx context.Context, dir, pkg, platform, to string) error {
	system, architecture, _ := strings.Cut(platform, "/")
	env := []string{"CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0", "GOOS=" + system, "GOARCH=" + architecture}
	_, err := r.outputIn(ctx, dir, env, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version="+r.version, "-o", to, pkg)
	return err
}
