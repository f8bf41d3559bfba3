package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sources are a project in a repository of its own, with one commit.
func sources(t *testing.T, changelog string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"CHANGELOG.md":  changelog,
		"metadata.yaml": "releaseSeries:\n- major: 0\n  minor: 1\n  contract: v1beta2\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet"}, {"add", "."},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "--message=test"},
	} {
		git(t, root, args...)
	}
	return root
}

func git(t *testing.T, root string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = root
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, output)
	}
}

const changelog = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0]\n\nNo series.\n\n## [0.1.3]\n\n### Changed\n\n- All.\n\n## [0.1.1] - 2026-02-01\n\n## [0.1.0] - 2026-01-01\n\nThe first.\n\n## [0.0.1]\n"

func TestWhatIsNoReleaseIsRefused(t *testing.T) {
	root := sources(t, changelog)
	for _, c := range []struct{ version, registry, want string }{
		{"", "r.example.com", "VERSION is not given"},
		{"0.1.0", "r.example.com", "no semantic version"},
		{"v0.1", "r.example.com", "no semantic version"},
		{"v0.1.0+build", "r.example.com", "no semantic version"},
		{"v0.1.0", "", "REGISTRY is not given"},
		{"v0.1.0", "Registry.example.com/Capi", "REGISTRY"},
		{"v0.1.0", "capi", "REGISTRY \"capi\""},
		{"v0.1.0", "[::1]:5000/capi", "give it a name"},
		{"v0.1.2", "r.example.com", "CHANGELOG.md has no section [0.1.2]"},
		{"v0.1.1", "r.example.com", "the section [0.1.1] of CHANGELOG.md is empty"},
		{"v0.2.0", "r.example.com", "metadata.yaml has no series v0.2"},
		{"v0.1.3", "r.example.com", `has "Changed", and does not say below "### Upgrade"`},
	} {
		r := &release{root: root, version: c.version, registry: c.registry}
		if err := r.check(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("version %q, registry %q: got error %v, want %q", c.version, c.registry, err, c.want)
		}
	}
}

func TestChangedSourcesAreRefused(t *testing.T) {
	root := sources(t, changelog)
	r := &release{root: root, version: "v0.1.0", registry: "r.example.com/capi"}
	if err := r.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.changes != "The first." {
		t.Errorf("the changes are %q", r.changes)
	}
	if r.commit == "" || r.date.IsZero() {
		t.Errorf("the commit is %q of %s", r.commit, r.date)
	}
	if err := os.WriteFile(filepath.Join(root, "more"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.check(t.Context()); err == nil || !strings.Contains(err.Error(), "changes that are in no commit") {
		t.Errorf("got error %v", err)
	}
}
