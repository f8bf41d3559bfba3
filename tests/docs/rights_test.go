package docs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

func TestRightsOfTheManagerAreExplained(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "deploy", "rbac", "role.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var role rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict(content, &role); err != nil {
		t.Fatal(err)
	}
	granted := map[string][]string{}
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				name := strings.TrimSuffix(resource+"."+group, ".")
				granted[name] = append(granted[name], rule.Verbs...)
			}
		}
	}

	page := read(t, "docs/install.md")
	for _, row := range Rows(section(t, page, "Rights")) {
		verbs := strings.Split(row[1], ", ")
		slices.Sort(verbs)
		for _, entry := range strings.Split(row[0], ", ") {
			name := strings.Trim(entry, "`")
			slices.Sort(granted[name])
			if !slices.Equal(granted[name], verbs) {
				t.Errorf("%s says of %s %q, and the role %q", page.Path, name, verbs, granted[name])
			}
			delete(granted, name)
		}
	}
	for name := range granted {
		t.Errorf("%s does not say why the manager may touch %s", page.Path, name)
	}
}
