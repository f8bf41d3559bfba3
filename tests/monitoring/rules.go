// Package monitoring reads the alerts and the dashboard that are shipped, so that tests
// can compare them with what a manager serves.
package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/tests/programs"
)

// Dir is the folder with what is shipped, from the root of the project.
const Dir = "deploy/monitoring"

// Rule is an alert, or an expression that is recorded under a name.
type Rule struct {
	// Group is the name of the group that the rule stands in.
	Group       string            `json:"-"`
	Record      string            `json:"record"`
	Alert       string            `json:"alert"`
	Expression  string            `json:"expr"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// Rules reads the rules of the project with this root.
func Rules(root string) ([]Rule, error) {
	content, err := os.ReadFile(filepath.Join(root, Dir, "rules.yaml"))
	if err != nil {
		return nil, fmt.Errorf("reading the rules: %w", err)
	}
	var file struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []Rule `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("reading the rules: %w", err)
	}
	var rules []Rule
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			rule.Group = group.Name
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// Selector is what an expression reads of one metric: its name, and the labels that the
// expression uses of it.
type Selector struct {
	Metric string   `json:"metric"`
	Labels []string `json:"labels"`
	// Expression is the index of the expression.
	Expression int `json:"expression"`
}

// Selectors are those of the expressions.
func Selectors(ctx context.Context, builder *programs.Builder, expressions []string) ([]Selector, error) {
	program, err := builder.Path(ctx, "promql-selectors")
	if err != nil {
		return nil, err
	}
	input, err := json.Marshal(expressions)
	if err != nil {
		return nil, fmt.Errorf("writing the expressions: %w", err)
	}
	cmd := exec.CommandContext(ctx, program)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("parsing the expressions: %w\n%s", err, stderr.String())
	}
	var selectors []Selector
	if err := json.Unmarshal(stdout.Bytes(), &selectors); err != nil {
		return nil, fmt.Errorf("reading the selectors: %w", err)
	}
	return selectors, nil
}
