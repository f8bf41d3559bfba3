package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go4.org/netipx"
	"k8s.io/client-go/kubernetes"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/monitoring"
	"capv-static-ip.dev/tests/programs"
)

// counts returns an error unless each replica tells of a pool what the harness counts.
func (s *scene) counts(ctx context.Context, f harness.Fixture, within netipx.IPRange) error {
	pool := f.Reference(f.PoolName)
	want, err := harness.CountPool(ctx, s.env.Client, s.ns, pool, within)
	if err != nil {
		return err
	}
	var errs []error
	for _, manager := range s.env.managers {
		for state, count := range map[string]int{"used": want.Used, "cooling": want.Cooling, "free": want.Free, "reserved": 0} {
			labels := map[string]string{"kind": pool.Kind, "pool_namespace": s.ns, "pool": pool.Name, "state": state}
			got, err := manager.Metric(ctx, "capv_static_ip_pool_addresses", labels)
			if err == nil && got != float64(count) {
				err = fmt.Errorf("%s tells of %v addresses %s, the harness counts %d", manager.Name, got, state, count)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func TestEachReplicaCountsPoolsAsTheyAre(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, f.WithIPs(88, 93), coolsFor(forLong))
		within := netipx.MustParseIPRange(f.IP(88) + "-" + f.IP(93))
		agree := func(ctx context.Context) error { return s.counts(ctx, f, within) }
		s.eventually("an empty pool to be counted", agree)

		machine := s.asks(f, "stays")
		s.create(machine)
		s.settled("stays")
		s.eventually("a pool with a machine to be counted", agree)
		s.cooled(f, "goes")
		s.eventually("a pool with an address that cools down to be counted", agree)
		count, err := harness.CountPool(t.Context(), s.env.Client, s.ns, f.Reference(f.PoolName), within)
		if want := (harness.PoolCount{Used: 1, Cooling: 1, Free: 4}); err != nil || count != want {
			t.Fatalf("the harness counts %+v with error %v, want %+v", count, err, want)
		}

		s.delete(machine)
		s.gone(machine)
		s.eventually("the pool to let nothing cool down", func(ctx context.Context) error {
			if err := s.env.Client.Get(ctx, s.key(pool.GetName()), pool); err != nil {
				return err
			}
			coolsFor(0)(pool)
			return s.env.Client.Update(ctx, pool)
		})
		s.eventually("all addresses to be free", func(context.Context) error {
			if addresses := s.addresses(); len(addresses) > 0 {
				return fmt.Errorf("%d are left", len(addresses))
			}
			return nil
		})
		s.delete(pool)
		s.gone(pool)
		s.eventually("the pool to have no series", func(ctx context.Context) error {
			var errs []error
			for _, manager := range s.env.managers {
				for _, name := range []string{"capv_static_ip_pool_addresses", "capv_static_ip_pool_waiting_owners"} {
					series, err := manager.Series(ctx, name, map[string]string{"pool_namespace": s.ns})
					if err == nil && series > 0 {
						err = fmt.Errorf("%s has %d series of %s", manager.Name, series, name)
					}
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		})
	})
}

// tellOfLost returns an error unless each replica tells of a lost address, be it that of
// another scene.
func (s *scene) tellOfLost(ctx context.Context) error {
	var errs []error
	for _, manager := range s.env.managers {
		lost, err := manager.Metric(ctx, "capv_static_ip_bindings", map[string]string{"state": "lost"})
		if err == nil && lost < 1 {
			err = fmt.Errorf("%s tells of none", manager.Name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func TestOwnersThatWaitForAPoolAreCounted(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(1)
	owner := s.machineSet("md")
	s.waiting(owner)
	waits := func(want float64) func(context.Context) error {
		return func(ctx context.Context) error {
			var errs []error
			for _, manager := range s.env.managers {
				got, err := manager.Metric(ctx, "capv_static_ip_pool_waiting_owners", map[string]string{"pool_namespace": s.ns, "kind": "IPPool"})
				if err == nil && got != want {
					err = fmt.Errorf("%s tells of %v owners, want %v", manager.Name, got, want)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}
	}
	s.eventually("the owner to be counted", waits(1))
	s.delete(owner)
	s.gone(owner)
	s.eventually("the owner to be counted no more", waits(0))
}

// servedMetrics are the labels of each metric that the managers and the API server serve. A
// histogram is there under the names of its series.
func (s *scene) servedMetrics() map[string]map[string]bool {
	s.Helper()
	labels := map[string]map[string]bool{}
	for _, manager := range s.env.managers {
		families, err := manager.Scrape(s.Context())
		if err != nil {
			s.Fatal(err)
		}
		addLabels(labels, families)
	}
	addLabels(labels, s.apiServerMetrics())
	return labels
}

func (s *scene) apiServerMetrics() map[string]*dto.MetricFamily {
	s.Helper()
	clients, err := kubernetes.NewForConfig(s.env.Config)
	if err != nil {
		s.Fatal(err)
	}
	text, err := clients.RESTClient().Get().AbsPath("/metrics").DoRaw(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		s.Fatal(err)
	}
	return families
}

func addLabels(labels map[string]map[string]bool, families map[string]*dto.MetricFamily) {
	for name, family := range families {
		names := []string{name}
		if family.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{name + "_bucket", name + "_sum", name + "_count"}
		}
		for _, name := range names {
			if labels[name] == nil {
				labels[name] = map[string]bool{"le": strings.HasSuffix(name, "_bucket")}
			}
			for _, metric := range family.GetMetric() {
				for _, pair := range metric.GetLabel() {
					labels[name][pair.GetName()] = true
				}
			}
		}
	}
}

// scraped are labels that Prometheus itself adds.
var scraped = []string{"job", "instance", "namespace", "pod"}

func TestWhatAlertsAndDashboardReadIsServed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	// Each kind of answer has been given once, so that its series are there.
	s.fullPool(1)
	s.waiting(s.machineSet("md"))
	rules, err := monitoring.Rules("../..")
	if err != nil {
		t.Fatal(err)
	}
	panels, err := monitoring.Panels("../..")
	if err != nil {
		t.Fatal(err)
	}
	expressions, recorded := monitoring.Expressions(rules, panels), map[string]bool{}
	for _, rule := range rules {
		recorded[rule.Record] = true
	}
	builder, err := programs.NewBuilder(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	selectors, err := monitoring.Selectors(t.Context(), builder, expressions)
	if err != nil {
		t.Fatal(err)
	}
	served := s.servedMetrics()
	for _, selector := range selectors {
		if recorded[selector.Metric] {
			continue
		}
		labels, known := served[selector.Metric]
		if !known {
			t.Errorf("nobody serves %s, which is read by\n%s", selector.Metric, expressions[selector.Expression])
			continue
		}
		for _, label := range selector.Labels {
			if !labels[label] && !slices.Contains(scraped, label) {
				t.Errorf("%s has no label %s, but %v; it is read by\n%s", selector.Metric, label, slices.Sorted(maps.Keys(labels)), expressions[selector.Expression])
			}
		}
	}
}

func TestMetricsAreNamedAsPrometheusWantsThem(t *testing.T) {
	t.Parallel()
	response, err := http.Get("http://" + shared.managers[0].MetricsAddress() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		if strings.HasPrefix(problem.Metric, "capv_static_ip_") {
			t.Errorf("%s: %s", problem.Metric, problem.Text)
		}
	}
	if !bytes.Contains(text, []byte("capv_static_ip_webhook_certificate_not_after_timestamp_seconds ")) {
		t.Error("the end of the webhook's certificate is not told")
	}
}
