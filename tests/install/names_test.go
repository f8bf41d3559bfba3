package install

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Helm takes long to build, so what it renders is compared by the heavy tests. An object
// that the chart has forgotten is found without it.
func TestChartNamesEveryObject(t *testing.T) {
	p := newProject(t)
	var chart []byte
	err := filepath.WalkDir(p.path("deploy", "chart", "capv-static-ip"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		chart = append(chart, content...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range read(t, p.run("kustomize", "build", "deploy/default")) {
		// Helm makes it by --create-namespace.
		if object.GetKind() == "Namespace" {
			continue
		}
		if named := regexp.MustCompile(regexp.QuoteMeta(object.GetName()) + `\b`); !named.Match(chart) {
			t.Errorf("the chart does not have %s", title(object))
		}
	}
}
