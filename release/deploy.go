package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// deployArchive has the folders for kustomize: what is optional, and what it goes on top of.
const deployArchive = product + "-deploy.tar.gz"

// leftOut is what a release has in files of its own, or what makes other files.
var leftOut = []string{"chart", "clusterctl", "deploy.go", "monitoring/dashboard"}

// makeDeploy packs the folders for kustomize.
func (r *release) makeDeploy(context.Context) error {
	dir := filepath.Join(r.work, "deploy")
	if err := r.fillDeploy(dir); err != nil {
		return err
	}
	return r.archive(dir, filepath.Join(r.out, deployArchive))
}

// fillDeploy copies the folders for kustomize to where the documentation says that they
// are, with the image of the release in place of one that nobody can pull.
func (r *release) fillDeploy(dir string) error {
	for _, name := range []string{"deploy", "certs"} {
		if err := copyFolder(filepath.Join(r.root, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range leftOut {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, "deploy", filepath.FromSlash(name))))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.nameImage(filepath.Join(dir, "deploy", "default", "kustomization.yaml"))
}

// nameImage has a kustomization name the image of the release, and say how an overlay
// finds it.
func (r *release) nameImage(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name := r.registry + "/" + product
	text := string(content)
	for old, replacement := range map[string]string{
		"  newTag: dev\n":             "  newName: " + name + "\n  newTag: " + r.version + "\n",
		"the name `" + product + "`.": "the name `" + name + "`.",
	} {
		if text, err = replaceOnce(text, old, replacement); err != nil {
			return fmt.Errorf("naming the image in %s: %w", path, err)
		}
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
