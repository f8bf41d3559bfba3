package main

import (
	"path/filepath"
	"strings"
	"testing"

	"capv-static-ip.dev/release/image"
)

func notesOf(t *testing.T, changes string) string {
	t.Helper()
	r := &release{
		root: "..", out: t.TempDir(), version: "v0.2.0", registry: "r.example.com", changes: changes, digest: "sha256:0",
		platforms: []image.Platform{{Name: "linux/amd64", Digest: "sha256:1"}, {Name: "linux/arm64", Digest: "sha256:2"}},
	}
	if err := r.makeNotes(t.Context()); err != nil {
		t.Fatal(err)
	}
	return read(t, filepath.Join(r.out, "RELEASE_NOTES.md"))
}

// above tells whether texts come one after the other.
func above(text string, parts ...string) bool {
	for _, part := range parts {
		_, rest, found := strings.Cut(text, part)
		if !found {
			return false
		}
		text = rest
	}
	return true
}

func TestNotesSayWhatAnUpgradeNeeds(t *testing.T) {
	notes := notesOf(t, "Faster.\n\n### Upgrade\n\nTake the annotation off.\n\n### Removed\n\n- An annotation.")
	if !above(notes, "Faster.\n\n### Removed\n\n- An annotation.\n\n## Upgrade\n", "docs/install.md", "\n\nTake the annotation off.\n\n## Image\n") {
		t.Errorf("got\n%s", notes)
	}
	if strings.Contains(notes, "### Upgrade") {
		t.Errorf("what to do stands among the changes, too:\n%s", notes)
	}
	notes = notesOf(t, "### Added\n\n- More.")
	if !above(notes, "### Added\n\n- More.\n\n## Upgrade\n", "\n\nThis version needs nothing beyond that.\n\n## Image\n") {
		t.Errorf("got\n%s", notes)
	}
}

func TestNotesHaveTheDigestOfEachPlatform(t *testing.T) {
	if notes := notesOf(t, "All."); !above(notes, "`r.example.com/capv-static-ip:v0.2.0`", "sha256:0 (all platforms)", "sha256:1 (linux/amd64)", "sha256:2 (linux/arm64)") {
		t.Errorf("got\n%s", notes)
	}
}
