package docs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// value is what the schema of the chart says of one.
type value struct {
	Description string           `json:"description"`
	Properties  map[string]value `json:"properties"`
}

// rows collects what the table has to have of a value and those in it.
func (v value) rows(name string, into map[string]string) {
	for key, property := range v.Properties {
		property.rows(name+"."+key, into)
	}
	if len(v.Properties) == 0 {
		into[name[1:]] = v.Description
	}
}

func TestValuesOfTheChartAreDocumented(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "deploy", "chart", "capv-static-ip", "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema value
	if err := json.Unmarshal(content, &schema); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	schema.rows("", want)
	page := read(t, "docs/helm-values.md")
	for _, row := range Rows(page.Text) {
		match := quoted.FindStringSubmatch(row[0])
		if match == nil {
			continue
		}
		if description, known := want[match[1]]; !known || description != row[1] {
			t.Errorf("%s says of %s %q, and the schema %q", page.Path, match[1], row[1], description)
		}
		delete(want, match[1])
	}
	for name := range want {
		t.Errorf("%s does not say what %s is", page.Path, name)
	}
}
