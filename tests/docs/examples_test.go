package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	spaces = regexp.MustCompile(` {2,}`)
	// ages are what differs from run to run, as the integration tests have it.
	ages = []struct {
		text *regexp.Regexp
		is   string
	}{
		{regexp.MustCompile(`\d+(s|m|m\d+s) ago`), "AGE ago"},
		{regexp.MustCompile(`since \d+m0s`), "since AGE"},
		{regexp.MustCompile(`in \d+(\.\d+)?s \(`), "in AGE ("},
	}
)

// Each example is what an integration test has had the command print.
func TestExamplesAreWhatTheCommandsPrint(t *testing.T) {
	for _, of := range []struct{ page, command string }{{"checks.md", "audit"}, {"migrate.md", "migrate"}, {"plugin.md", "adopt-adapter"}} {
		got, want := example(t, of.page, of.command), golden(t, of.command+".txt")
		// There each scene has a network of its own.
		got = strings.ReplaceAll(got, `"VM Network"`, `"VM Network of NAMESPACE"`)
		if got != want {
			t.Errorf("the example of docs/%s is\n%s\nand it prints\n%s", of.page, got, want)
		}
	}
}

// golden is what an integration test has had a command of the plugin print.
func golden(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "integration", "testdata", "plugin", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// example is the first one that a page has of a command of the plugin, as the integration tests
// would have it.
func example(t *testing.T, page, command string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	begin := "$ kubectl static-ip " + command
	_, found, _ := strings.Cut(string(text), "```\n"+begin)
	found, _, ended := strings.Cut(found, "```\n")
	if !ended {
		t.Fatalf("docs/%s has no example of %s", page, command)
	}
	found = begin + spaces.ReplaceAllString(strings.ReplaceAll(found, "default", "NAMESPACE"), "  ")
	for _, age := range ages {
		found = age.text.ReplaceAllString(found, age.is)
	}
	return found
}
