package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// makeNotes says what is new, what an upgrade needs, what the image is, and what it works
// with.
func (r *release) makeNotes(context.Context) error {
	versions, err := r.versions()
	if err != nil {
		return err
	}
	changes, upgrade := upgradeNotes(r.changes)
	if upgrade == "" {
		upgrade = "This version needs nothing beyond that."
	}
	digests := r.digest + " (all platforms)"
	for _, platform := range r.platforms {
		digests += "\n    " + platform.Digest + " (" + platform.Name + ")"
	}
	text := fmt.Sprintf(`# %s %s

%s

## Upgrade

Upgrade in the way in which you installed it, and apply all of it. docs/install.md of this
version says how, for each way; the airgap bundle has it, too.

%s

## Image

`+"`%s`"+`

    %s

## Versions

%s

How to install it, and to verify what you have, stands in docs/install.md as well.
`, product, r.version, changes, upgrade, r.image(), digests, versions)
	return os.WriteFile(filepath.Join(r.out, "RELEASE_NOTES.md"), []byte(text), 0o644)
}

// upgradeNotes takes what an upgrade needs, which stands below a heading of its own, out
// of the changes.
func upgradeNotes(changes string) (rest, upgrade string) {
	before, after, found := strings.Cut("\n"+changes+"\n", "\n### Upgrade\n")
	if !found {
		return changes, ""
	}
	upgrade, after, found = strings.Cut(after, "\n### ")
	if found {
		before += "\n### " + after
	}
	return strings.TrimSpace(before), strings.TrimSpace(upgrade)
}

// versions is the table of what this version works with.
func (r *release) versions() (string, error) {
	content, err := os.ReadFile(filepath.Join(r.root, "docs", "install.md"))
	if err != nil {
		return "", err
	}
	_, section, found := strings.Cut(string(content), "\n## Versions\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var rows []string
	for _, line := range strings.Split(section, "\n") {
		if strings.HasPrefix(line, "|") {
			rows = append(rows, line)
		}
	}
	if !found || len(rows) < 3 {
		return "", fmt.Errorf("docs/install.md has no table of versions")
	}
	return strings.Join(rows, "\n"), nil
}

// testedWith is the version of a program that docs/install.md says this one is tested with.
func (r *release) testedWith(program string) (string, error) {
	rows, err := r.versions()
	if err != nil {
		return "", err
	}
	for _, row := range strings.Split(rows, "\n") {
		if cells := strings.Split(row, "|"); len(cells) > 2 && strings.TrimSpace(cells[1]) == program {
			return strings.TrimSpace(cells[2]), nil
		}
	}
	return "", fmt.Errorf("docs/install.md does not say which version of %s this is tested with", program)
}
