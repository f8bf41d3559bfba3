package harness

import (
	"context"
	"fmt"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
)

// Metric returns the sum of a metric over all series that carry the given
// labels: the value of a counter or a gauge, the number of observations of a
// histogram. A metric that has no such series yet is 0.
func (m *Manager) Metric(ctx context.Context, name string, labels map[string]string) (float64, error) {
	families, err := m.Scrape(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading metric %s of %s: %w", name, m.Name, err)
	}
	sum := 0.0
	for _, metric := range families[name].GetMetric() {
		if carries(metric, labels) {
			sum += value(metric)
		}
	}
	return sum, nil
}

// Series returns the number of series of a metric that carry the given labels.
func (m *Manager) Series(ctx context.Context, name string, labels map[string]string) (int, error) {
	families, err := m.Scrape(ctx)
	if err != nil {
		return 0, fmt.Errorf("counting the series of metric %s of %s: %w", name, m.Name, err)
	}
	count := 0
	for _, metric := range families[name].GetMetric() {
		if carries(metric, labels) {
			count++
		}
	}
	return count, nil
}

// Scrape returns all metrics of the manager, by their names.
func (m *Manager) Scrape(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	return scrape(ctx, http.DefaultClient, "http://"+m.diagnostics+"/metrics")
}

// Scrape returns all metrics of the API server, by their names.
func (c *ControlPlane) Scrape(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	as, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return nil, fmt.Errorf("scraping the API server: %w", err)
	}
	return scrape(ctx, as, c.Config.Host+"/metrics")
}

func scrape(ctx context.Context, as *http.Client, url string) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := as.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("scraping: %s", response.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(response.Body)
}

func carries(metric *dto.Metric, labels map[string]string) bool {
	found := 0
	for _, pair := range metric.GetLabel() {
		if want, ok := labels[pair.GetName()]; ok {
			if want != pair.GetValue() {
				return false
			}
			found++
		}
	}
	return found == len(labels)
}

func value(metric *dto.Metric) float64 {
	switch {
	case metric.GetCounter() != nil:
		return metric.GetCounter().GetValue()
	case metric.GetGauge() != nil:
		return metric.GetGauge().GetValue()
	case metric.GetHistogram() != nil:
		return float64(metric.GetHistogram().GetSampleCount())
	case metric.GetSummary() != nil:
		return float64(metric.GetSummary().GetSampleCount())
	default:
		return metric.GetUntyped().GetValue()
	}
}
