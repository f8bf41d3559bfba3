package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// makeNotes says what is new, what the image is, and what it works with.
func (r *release) makeNotes(context.Context) error {
	versions, err := r.versions()
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`# %s %s

%s

## Image

`+"`%s`"+`, for %s

    %s

## Versions

%s

How to install it, to verify what you have, and to upgrade, stands in docs/install.md of
this version, which the airgap bundle has, too.
`, product, r.version, r.changes, r.image(), "linux/"+strings.Join(architectures, " and linux/"), r.digest, versions)
	return os.WriteFile(filepath.Join(r.out, "RELEASE_NOTES.md"), []byte(text), 0o644)
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
