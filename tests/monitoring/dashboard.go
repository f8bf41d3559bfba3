package monitoring

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Panel is a panel of the dashboard, or a row of panels.
type Panel struct {
	Type        string     `json:"type"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Datasource  Datasource `json:"datasource"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []struct {
		Expression string     `json:"expr"`
		Datasource Datasource `json:"datasource"`
	} `json:"targets"`
	Panels []Panel `json:"panels"`
}

// Datasource is where a panel reads.
type Datasource struct {
	UID string `json:"uid"`
}

// Panels are those of the dashboard of the project with this root, without the rows.
func Panels(root string) ([]Panel, error) {
	content, err := os.ReadFile(filepath.Join(root, Dir, "dashboard.json"))
	if err != nil {
		return nil, fmt.Errorf("reading the dashboard: %w", err)
	}
	var board Panel
	if err := json.Unmarshal(content, &board); err != nil {
		return nil, fmt.Errorf("reading the dashboard: %w", err)
	}
	return board.flat(), nil
}

func (p Panel) flat() []Panel {
	var panels []Panel
	for _, panel := range p.Panels {
		if panel.Type != "row" {
			panels = append(panels, panel)
		}
		panels = slices.Concat(panels, panel.flat())
	}
	return panels
}

// inGrafana are intervals that Grafana fills in.
var inGrafana = strings.NewReplacer("$__rate_interval", "5m", "$__interval", "1m")

// Expressions are those of rules and panels, as Prometheus gets them.
func Expressions(rules []Rule, panels []Panel) []string {
	var expressions []string
	for _, rule := range rules {
		expressions = append(expressions, rule.Expression)
	}
	for _, panel := range panels {
		for _, target := range panel.Targets {
			expressions = append(expressions, inGrafana.Replace(target.Expression))
		}
	}
	return expressions
}
