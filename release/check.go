package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/mod/semver"
	"sigs.k8s.io/yaml"
)

// check refuses what would be no release, before anything is made, and reads what all
// files depend on.
func (r *release) check(ctx context.Context) error {
	root, err := filepath.Abs(r.root)
	if err != nil {
		return err
	}
	r.root = root
	if err := r.checkVersion(); err != nil {
		return err
	}
	if err := r.checkRegistry(); err != nil {
		return err
	}
	if r.sign != "" && (!strings.Contains(r.sign, "{in}") || !strings.Contains(r.sign, "{out}")) {
		return fmt.Errorf("SIGN %q does not say {in} and {out}", r.sign)
	}
	if r.changes, err = r.section(); err != nil {
		return err
	}
	if err := r.checkUpgrade(); err != nil {
		return err
	}
	if err := r.checkSeries(); err != nil {
		return err
	}
	return r.checkSources(ctx)
}

func (r *release) checkVersion() error {
	if r.version == "" {
		return errors.New("VERSION is not given, as v0.1.0")
	}
	if !semver.IsValid(r.version) || semver.Canonical(r.version) != r.version {
		return fmt.Errorf("VERSION %q is no semantic version as v0.1.0 or v0.1.0-rc.1", r.version)
	}
	return nil
}

func (r *release) checkRegistry() error {
	if r.registry == "" {
		return errors.New("REGISTRY is not given, as registry.example.com/capi")
	}
	// In YAML, that would be a list. load.sh can be given one.
	if strings.HasPrefix(r.registry, "[") {
		return fmt.Errorf("REGISTRY %q is an address in brackets: give it a name", r.registry)
	}
	// clusterctl reads no names without a registry.
	if _, err := name.NewTag(r.image(), name.StrictValidation); err != nil {
		return fmt.Errorf("REGISTRY %q: %w", r.registry, err)
	}
	return nil
}

var heading = regexp.MustCompile(`(?m)^## .*$`)

// section returns what the changelog says of the version.
func (r *release) section() (string, error) {
	content, err := os.ReadFile(filepath.Join(r.root, "CHANGELOG.md"))
	if err != nil {
		return "", fmt.Errorf("reading the changelog: %w", err)
	}
	text := string(content)
	headings := heading.FindAllStringIndex(text, -1)
	for i, at := range headings {
		if !strings.HasPrefix(text[at[0]:at[1]], "## ["+r.number()+"]") {
			continue
		}
		end := len(text)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		if section := strings.TrimSpace(text[at[1]:end]); section != "" {
			return section, nil
		}
		return "", fmt.Errorf("the section [%s] of CHANGELOG.md is empty", r.number())
	}
	return "", fmt.Errorf("CHANGELOG.md has no section [%s]", r.number())
}

var breaking = regexp.MustCompile(`(?m)^### (Changed|Deprecated|Removed)$`)

// checkUpgrade wants users to be told what they have to do about what is not as it was,
// also if that is nothing.
func (r *release) checkUpgrade() error {
	changes, upgrade := upgradeNotes(r.changes)
	if match := breaking.FindStringSubmatch(changes); match != nil && upgrade == "" {
		return fmt.Errorf("the section [%s] of CHANGELOG.md has %q, and does not say below \"### Upgrade\" what to do about it", r.number(), match[1])
	}
	return nil
}

// checkSeries looks for the version's series in metadata.yaml, without which
// clusterctl does not install it.
func (r *release) checkSeries() error {
	content, err := os.ReadFile(filepath.Join(r.root, "metadata.yaml"))
	if err != nil {
		return fmt.Errorf("reading the series: %w", err)
	}
	var metadata struct {
		ReleaseSeries []struct{ Major, Minor int }
	}
	if err := yaml.Unmarshal(content, &metadata); err != nil {
		return fmt.Errorf("reading metadata.yaml: %w", err)
	}
	for _, series := range metadata.ReleaseSeries {
		if semver.MajorMinor(r.version) == fmt.Sprintf("v%d.%d", series.Major, series.Minor) {
			return nil
		}
	}
	return fmt.Errorf("metadata.yaml has no series %s", semver.MajorMinor(r.version))
}

// checkSources refuses a tree with changes, and reads which commit it is.
func (r *release) checkSources(ctx context.Context) error {
	status, err := r.output(ctx, "git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if status != "" {
		return fmt.Errorf("there are changes that are in no commit:\n%s", status)
	}
	if r.commit, err = r.output(ctx, "git", "rev-parse", "HEAD"); err != nil {
		return err
	}
	text, err := r.output(ctx, "git", "show", "--no-patch", "--format=%ct", "HEAD")
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("reading the date of the commit: %w", err)
	}
	r.date = time.Unix(seconds, 0).UTC()
	return nil
}
