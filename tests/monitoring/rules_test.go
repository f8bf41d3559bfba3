package monitoring

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/tests/docs"
	"capv-static-ip.dev/tests/programs"
)

const root = "../.."

// run runs a program of ours, or of others, with this input.
func run(t *testing.T, input io.Reader, name string, args ...string) string {
	t.Helper()
	builder, err := programs.NewBuilder(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	program, err := builder.Path(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = input
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, output)
	}
	return string(output)
}

func alerts(t *testing.T) []Rule {
	t.Helper()
	rules, err := Rules(root)
	if err != nil {
		t.Fatal(err)
	}
	rules = slices.DeleteFunc(rules, func(r Rule) bool { return r.Alert == "" })
	if len(rules) == 0 {
		t.Fatal("there are no alerts")
	}
	return rules
}

func TestRulesAreValid(t *testing.T) {
	run(t, nil, "promtool", "check", "rules", "--lint-fatal", filepath.Join(root, Dir, "rules.yaml"))
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	run(t, nil, "promtool", "test", "rules", "rules_test.yaml")
}

// Groups are evaluated side by side: an alert that reads what another group records may
// see it an evaluation late.
func TestAlertsReadWhatTheirOwnGroupRecords(t *testing.T) {
	rules, err := Rules(root)
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]string{}
	for _, rule := range rules {
		if rule.Record != "" {
			recorded[rule.Record] = rule.Group
		}
	}
	for _, alert := range alerts(t) {
		for record, group := range recorded {
			if strings.Contains(alert.Expression, record) && group != alert.Group {
				t.Errorf("%s stands in %s, and reads %s, which %s records", alert.Alert, alert.Group, record, group)
			}
		}
	}
}

func TestEveryAlertHasACaseThatFiresAndOneThatMustNot(t *testing.T) {
	content, err := os.ReadFile("rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases struct {
		Tests []struct {
			Alerts []struct {
				Name     string `json:"alertname"`
				Expected []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(content, &cases); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range cases.Tests {
		for _, alert := range test.Alerts {
			if len(alert.Expected) > 0 {
				fires[alert.Name] = true
			} else {
				quiet[alert.Name] = true
			}
		}
	}
	for _, rule := range alerts(t) {
		if !fires[rule.Alert] || !quiet[rule.Alert] {
			t.Errorf("%s: a case in which it fires: %v, one in which it does not: %v", rule.Alert, fires[rule.Alert], quiet[rule.Alert])
		}
	}
}

func TestEveryAlertSaysWhatIsWrongAndWhatToType(t *testing.T) {
	for _, rule := range alerts(t) {
		if severity := rule.Labels["severity"]; severity != "critical" && severity != "warning" {
			t.Errorf("%s has severity %q", rule.Alert, severity)
		}
		if rule.Annotations["summary"] == "" {
			t.Errorf("%s has no summary", rule.Alert)
		}
		if !strings.Contains(rule.Annotations["description"], "kubectl ") {
			t.Errorf("the description of %s has no command", rule.Alert)
		}
	}
}

// The other way round as well: a runbook of an alert that is gone misleads.
func TestEveryAlertHasItsRunbook(t *testing.T) {
	page, err := docs.Read(root, "docs/operate/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := page.Anchors()
	var known []string
	for _, rule := range alerts(t) {
		address, anchor, _ := strings.Cut(rule.Annotations["runbook_url"], "#")
		if address != "https://capv-static-ip.dev/docs/operate/runbooks/" || anchor != docs.Anchor(rule.Alert) {
			t.Errorf("the runbook of %s is at %s#%s", rule.Alert, address, anchor)
		}
		if !slices.Contains(anchors, anchor) {
			t.Errorf("%s has no heading for %s", page.Path, rule.Alert)
		}
		known = append(known, anchor)
	}
	for _, anchor := range anchors {
		if strings.HasPrefix(anchor, "capvstaticip") && !slices.Contains(known, anchor) {
			t.Errorf("%s has a heading #%s, and there is no such alert", page.Path, anchor)
		}
	}
}

func TestObjectsOfThePrometheusOperatorHaveNoUnknownFields(t *testing.T) {
	var documents [][]byte
	for _, name := range []string{"service_monitor.yaml", "prometheus_rule.yaml"} {
		content, err := os.ReadFile(filepath.Join(root, Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, content)
	}
	got := run(t, bytes.NewReader(bytes.Join(documents, []byte("\n---\n"))), "monitoring-objects")
	if want := "ServiceMonitor\nPrometheusRule\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRulesForTheOperatorAreThoseOfTheFile(t *testing.T) {
	read := func(name string) (content map[string]any) {
		text, err := os.ReadFile(filepath.Join(root, Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, &content); err != nil {
			t.Fatal(err)
		}
		return content
	}
	want, err := yaml.Marshal(read("rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(read("prometheus_rule.yaml")["spec"])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("prometheus_rule.yaml is stale: run make generate")
	}
}

func TestSelectorsAreFoundWithTheLabelsThatAreUsed(t *testing.T) {
	builder, err := programs.NewBuilder(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Selectors(t.Context(), builder, []string{`sum by (a) (rate(m{b="x"}[5m])) / on (c) n`})
	if err != nil {
		t.Fatal(err)
	}
	want := []Selector{{Metric: "m", Labels: []string{"a", "b", "c"}}, {Metric: "n", Labels: []string{"c"}}}
	if !slices.EqualFunc(got, want, func(a, b Selector) bool { return a.Metric == b.Metric && slices.Equal(a.Labels, b.Labels) }) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := Selectors(t.Context(), builder, []string{"sum("}); err == nil {
		t.Error("what is no expression is taken")
	}
}
