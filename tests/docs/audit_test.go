package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// goldenAudit is what an integration test has printed, where everything is wrong at once.
var goldenAudit = filepath.Join("..", "integration", "testdata", "plugin", "audit.txt")

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

func TestExampleOfAnAuditIsWhatItPrints(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "checks.md"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(goldenAudit)
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```\n$ kubectl static-ip audit\n")
	example, _, ended := strings.Cut(example, "```\n")
	if !ended {
		t.Fatal("docs/checks.md has no example of an audit")
	}
	got := "$ kubectl static-ip audit\n" + spaces.ReplaceAllString(strings.ReplaceAll(example, "default", "NAMESPACE"), "  ")
	// There each scene has a network of its own.
	got = strings.ReplaceAll(got, `"VM Network"`, `"VM Network of NAMESPACE"`)
	for _, age := range ages {
		got = age.text.ReplaceAllString(got, age.is)
	}
	if got != string(want) {
		t.Errorf("the example is\n%s\nand it prints\n%s", got, want)
	}
}
