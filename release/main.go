// Command release makes all files of a release, and publishes nothing:
//
//	make release VERSION=v0.1.0 REGISTRY=registry.example.com/capi
//
// The same commit gives the same bytes. What it needs beside the sources are Go, git
// and a module proxy; no container runtime and no registry.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"capv-static-ip.dev/release/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	r := &release{}
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.StringVar(&r.root, "root", ".", "folder of the project")
	flags.StringVar(&r.version, "version", "", "version of the release, as v0.1.0")
	flags.StringVar(&r.registry, "registry", "", "where the image and the chart will be, as registry.example.com/capi")
	flags.StringVar(&r.sign, "sign", "", "command that signs {in} into {out}")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := r.check(ctx); err != nil {
		return fmt.Errorf("refused: %w", err)
	}
	return r.make(ctx)
}

// release is one release while it is made.
type release struct {
	root, version, registry, sign string

	// commit and date are those of the sources.
	commit string
	date   time.Time
	// changes is the section of the changelog.
	changes string
	// out is where the files of the release go, and work where others do.
	out, work string
	// digest is that of the image with all its platforms, which are those of one each.
	digest    string
	platforms []image.Platform
}

// image is the name of the image, with its tag. A tag, no digest: mirrors often copy
// one platform only, which changes the digest.
func (r *release) image() string { return r.registry + "/" + product + ":" + r.version }

// provider is the name of the artifact with our files for the operator of Cluster API,
// without a tag: the operator takes the version for it.
func (r *release) provider() string { return r.registry + "/" + product + "-provider" }

// number is the version as Helm and the changelog write it.
func (r *release) number() string { return strings.TrimPrefix(r.version, "v") }

const product = "capv-static-ip"

// make makes all files beside the final place and renames, so that a release that is
// there is whole.
func (r *release) make(ctx context.Context) error {
	final := filepath.Join(r.root, "dist", r.version)
	r.out, r.work = final+".new", final+".work"
	if err := errors.Join(os.RemoveAll(r.out), os.RemoveAll(r.work)); err != nil {
		return err
	}
	defer os.RemoveAll(r.work)
	if err := errors.Join(os.MkdirAll(r.out, 0o755), os.MkdirAll(r.work, 0o755)); err != nil {
		return err
	}
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"image", r.makeImage},
		{"manifests", r.makeManifests},
		{"provider", r.makeProvider},
		{"chart", r.makeChart},
		{"deploy", r.makeDeploy},
		{"plugin", r.makePlugin},
		{"krew", r.makeKrew},
		{"notes", r.makeNotes},
		{"bundle", r.makeBundle},
		{"provenance", r.makeProvenance},
		{"sums", r.makeSums},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", step.title, time.Since(began).Round(100*time.Millisecond))
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	if err := os.Rename(r.out, final); err != nil {
		return err
	}
	fmt.Printf("dist/%s: image %s@%s\n", r.version, r.image(), r.digest)
	return nil
}
