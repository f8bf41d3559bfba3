package monitoring

import (
	"regexp"
	"strings"
	"testing"

	"capv-static-ip.dev/tests/programs"
)

func panels(t *testing.T) []Panel {
	t.Helper()
	panels, err := Panels(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(panels) < 10 {
		t.Fatalf("the dashboard has %d panels", len(panels))
	}
	return panels
}

func TestEveryPanelSaysWhatItShows(t *testing.T) {
	for _, panel := range panels(t) {
		if panel.Title == "" || panel.Description == "" || panel.FieldConfig.Defaults.Unit == "" || len(panel.Targets) == 0 {
			t.Errorf("panel %q has the description %q, the unit %q and %d queries", panel.Title, panel.Description, panel.FieldConfig.Defaults.Unit, len(panel.Targets))
		}
	}
}

// The UID of a datasource is another one in each Grafana.
func TestDashboardReadsTheDatasourceThatIsChosen(t *testing.T) {
	const chosen = "${datasource}"
	for _, panel := range panels(t) {
		if panel.Datasource.UID != chosen {
			t.Errorf("panel %q reads %q", panel.Title, panel.Datasource.UID)
		}
		for _, target := range panel.Targets {
			if target.Datasource.UID != chosen {
				t.Errorf("a query of panel %q reads %q", panel.Title, target.Datasource.UID)
			}
		}
	}
}

var rated = regexp.MustCompile(`\b(rate|irate|increase)\(`)

// With a fixed interval a rate is empty, or skips samples, when the reader zooms.
func TestRatesOfTheDashboardAreOverTheRateInterval(t *testing.T) {
	seen := 0
	for _, panel := range panels(t) {
		for _, target := range panel.Targets {
			rates := len(rated.FindAllString(target.Expression, -1))
			seen += rates
			if strings.Count(target.Expression, "[$__rate_interval]") != rates {
				t.Errorf("panel %q has another interval: %s", panel.Title, target.Expression)
			}
		}
	}
	if seen == 0 {
		t.Error("no rate is found")
	}
}

func TestExpressionsOfTheDashboardAreValid(t *testing.T) {
	builder, err := programs.NewBuilder(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	expressions := Expressions(nil, panels(t))
	selectors, err := Selectors(t.Context(), builder, expressions)
	if err != nil {
		t.Fatal(err)
	}
	if len(selectors) < len(expressions) {
		t.Errorf("got %d selectors of %d expressions", len(selectors), len(expressions))
	}
}
