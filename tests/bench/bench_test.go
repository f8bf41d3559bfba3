package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"capv-static-ip.dev/tests/bench/measure"
)

const ms = time.Millisecond

// of is one sample.
func of(took time.Duration) measure.Durations { return measure.Durations{took} }

// made are so many in a time.
func made(count int, wall time.Duration) burst {
	return burst{Crowd: measure.Crowd{Durations: make(measure.Durations, count), Wall: wall}}
}

func measured() *results {
	usual, engine, inCluster := ways()[0], ways()[1], ways()[2]
	machines := made(200, 4*time.Second)
	machines.used = usage{apiServer: 3 * time.Second, provider: time.Second}
	machines.settled, machines.manager, machines.failed = 3*time.Second, 2*time.Second, 7
	return &results{
		machine: measure.Machine{Model: "some CPU", Load: "0.10", Cores: 2},
		ways: []*result{
			{
				way:    usual,
				alone:  alone{plain: of(4 * ms), dhcp: of(5 * ms), claim: of(16 * ms), injected: of(28 * ms), two: of(42 * ms), chosen: of(35 * ms)},
				bursts: []*bursts{{size: 200, claims: made(200, 2*time.Second), machines: machines}},
				growth: []*growth{
					{bindings: 10, claim: of(16 * ms), injected: of(20 * ms)},
					{bindings: 10000, claim: of(30 * ms), injected: of(30 * ms), starts: of(2 * time.Second), resident: 160 << 20, peak: 200 << 20},
				},
				cost:   cost{machines: 2, made: writes{"ipclaims": 2, "events": 3}, remove: writes{"ipclaims": 4}},
				killed: failover{adopted: 16 * time.Second, created: 30 * ms},
			},
			{
				way:       engine,
				alone:     alone{plain: of(4 * ms), dhcp: of(5 * ms), claim: of(16 * ms), injected: of(14 * ms)},
				throttled: []*bursts{{size: 128, claims: made(128, 16*time.Second), machines: made(128, time.Second)}},
			},
			{way: inCluster},
		},
		own: []own{
			{bindings: 10, plain: of(4 * ms), claim: of(6 * ms), injected: of(20 * ms)},
			{bindings: 10000, plain: of(4 * ms), claim: of(6 * ms), injected: of(22 * ms)},
		},
		scrape: of(60 * ms),
		looks:  looks{machines: 10000, took: of(6 * time.Second), resident: 250},
	}
}

func TestReportComparesWithTheGoalsOfEachWay(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	measured().print(&out)
	for _, want := range []string{
		"2 cores, some CPU",
		"| injection / plain create, p50, 1 client | metal3, claim | 7.00 | none |  | 28.0 ms; a plain create is 4.0 ms, a bare claim 16.0 ms |",
		"| injection / plain create, p50, 1 client | metal3, address | 3.50 | at most 4 | met |",
		"| injection / (plain create + bare claim), p50, 1 client | metal3, claim | 1.40 | at most 1.25 | MISSED |",
		"| DHCP machine with us / without us, p50 | all | 1.25 | at most 1.05 | MISSED | 5.0 ms to 4.0 ms, 2 samples each |",
		"| two addresses of a device / one, p50 | metal3, claim | 1.50 | none |",
		"| second choice / only choice, p50 | metal3, claim | 1.25 | none |",
		"| machines / bare claims, each second, 200 by 32 clients | metal3, claim | 0.50 | at least 0.8 | MISSED | 50.0 to 100.0; ",
		"busy: API server 75 %, provider 25 % |",
		"| the same, 128, metal3 with its own limit | metal3, address | 16.00 | at least 15 | met |",
		"| injection with 10000 bindings / with 10, p50 | metal3, claim | 1.50 | at most 1.3 | MISSED | 30.0 ms to 20.0 ms; a bare claim 30.0 ms to 16.0 ms |",
		"| the manager's memory (RSS), 10000 machines | metal3, claim | 160.00 MiB | at most 150 MiB | MISSED | at most 200 MiB ever |",
		"| start until Ready, 10000 machines, p50 | metal3, claim | 2.00 s | none |",
		"| the leader is killed: until a new machine's claim is adopted | metal3, claim | 16.00 s | none |",
		"| API writes for each machine that is made | metal3, claim | 2.50 | none |  | events 1.50, ipclaims 1.00 |",
		"| API writes for each that is removed | metal3, claim | 2.00 | none |",
		"| own share of a create with 10000 bindings / with 10 | a provider that answers at once | 1.20 | at most 1.1 | MISSED | 12.0 ms to 10.0 ms |",
		"| in this process | 60.00 ms | at most 50 ms | MISSED |",
		"| the plugin | 6.00 s | at most 5 s | MISSED |",
		"| the plugin | 250.00 MiB | at most 300 MiB | met |",
		"| VSphereMachine with two of one device | metal3, claim | 1 | 42.0 ms | 42.0 ms | 42.0 ms |",
		"| 200 | metal3, claim | machines | 50.0 | 0.0 ms | 0.0 ms | 0.0 ms | 7 | 20.0 ms | 10.0 ms | 3.00 s |",
		"| 10000 | metal3, claim | 1 | 30.0 ms | 30.0 ms | 30.0 ms | 0.0 ms | 160 MiB | 200 MiB | 2.00 s |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, out.String())
		}
	}
}

func TestReportOfARunThatWasCutShortHasWhatWasMeasured(t *testing.T) {
	t.Parallel()
	r := measured()
	r.own, r.scrape, r.looks = nil, nil, looks{}
	for _, way := range r.ways[:2] {
		way.bursts, way.throttled, way.growth, way.cost, way.killed = nil, nil, nil, cost{}, failover{}
	}
	for _, f := range r.findings() {
		if strings.Contains(f.What, "each second") || strings.Contains(f.What, "bindings") || strings.Contains(f.What, "writes") {
			t.Errorf("it has %q, which was not measured", f.What)
		}
	}
	var out bytes.Buffer
	r.print(&out)
	if !strings.Contains(out.String(), "| injection / plain create, p50, 1 client |") || strings.Contains(out.String(), "NaN") {
		t.Errorf("got\n%s", out.String())
	}
}

func TestWritesAreThoseThatTheAPIServerHasDone(t *testing.T) {
	t.Parallel()
	const before, after = `# TYPE apiserver_request_total counter
apiserver_request_total{code="201",dry_run="",group="ipam.metal3.io",resource="ipclaims",subresource="",verb="POST"} 5
`, `# TYPE apiserver_request_total counter
apiserver_request_total{code="201",dry_run="",group="ipam.metal3.io",resource="ipclaims",subresource="",verb="POST"} 7
apiserver_request_total{code="200",dry_run="",group="ipam.metal3.io",resource="ipclaims",subresource="status",verb="PATCH"} 3
apiserver_request_total{code="409",dry_run="",group="ipam.metal3.io",resource="ipclaims",subresource="",verb="PATCH"} 9
apiserver_request_total{code="201",dry_run="All",group="ipam.metal3.io",resource="ipclaims",subresource="",verb="POST"} 9
apiserver_request_total{code="200",dry_run="",group="ipam.metal3.io",resource="ipclaims",subresource="",verb="GET"} 9
apiserver_request_total{code="200",dry_run="",group="coordination.k8s.io",resource="leases",subresource="",verb="PUT"} 9
apiserver_request_total{code="201",dry_run="",group="authorization.k8s.io",resource="subjectaccessreviews",subresource="",verb="POST"} 9
`
	got := writesOf(families(t, after)).since(writesOf(families(t, before)))
	if text := got.each(2); got.total() != 5 || text != "ipclaims/status 1.50, ipclaims 1.00" {
		t.Errorf("got %d: %s", got.total(), text)
	}
}

func families(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestProcessorsAreBusyWithWhatWasUsed(t *testing.T) {
	t.Parallel()
	used := usage{apiServer: 5 * time.Second, etcd: time.Second, manager: 2 * time.Second}
	before := usage{apiServer: time.Second, manager: time.Second}
	const want = "2 cores 75 % busy: API server 67 %, etcd 17 %, manager 17 %"
	if got := used.since(before).within(4*time.Second, 2); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (usage{}).within(time.Second, 2); got != "" {
		t.Errorf("where nothing is known: got %q", got)
	}
}

func TestScrapeTellsOfAllThatIsMeasured(t *testing.T) {
	t.Parallel()
	if took, err := scrapes(t.Context(), 1); err != nil || len(took) != 1 {
		t.Errorf("got %d samples and error %v", len(took), err)
	}
}
