package docs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// markers begin the lines by which a merge marks what it could not put together.
// They are put together here, so that this file has none.
var markers = []string{strings.Repeat("<", 7) + " ", strings.Repeat(">", 7) + " "}

// unmerged are the numbers of the lines of a text that begin with such a marker.
func unmerged(text string) []int {
	var numbers []int
	for i, line := range strings.Split(text, "\n") {
		if slices.ContainsFunc(markers, func(marker string) bool { return strings.HasPrefix(line, marker) }) {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

// tracked are the names of the files that git knows, from the root of the project.
func tracked(t *testing.T) []string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, ".git")); errors.Is(err, fs.ErrNotExist) {
		t.Skip("this is no checkout of git, which knows the files of the project")
	}
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z")
	list.Dir = root
	names, err := list.Output()
	if err != nil {
		t.Fatalf("listing the files that git knows: %v", err)
	}
	return strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00")
}

func TestNoFileHasMarkersOfAMerge(t *testing.T) {
	looked := 0
	for _, name := range tracked(t) {
		content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and git has not been told yet
		}
		if err != nil {
			t.Fatal(err)
		}
		text := string(content)
		if strings.Contains(text, "\x00") {
			continue // not a text
		}
		looked++
		for _, line := range unmerged(text) {
			t.Errorf("%s:%d: a merge has left its marker", name, line)
		}
	}
	if looked == 0 {
		t.Error("no files are found")
	}
}

func TestMarkersOfAMergeAreFound(t *testing.T) {
	ours, theirs := markers[0]+"HEAD", markers[1]+"branch"
	text := strings.Join([]string{ours, "a", "=======", "b " + ours, " " + theirs, theirs, "```" + theirs}, "\n")
	if got, want := unmerged(text), []int{1, 6}; !slices.Equal(got, want) {
		t.Errorf("got lines %v, want %v", got, want)
	}
}
