// Command dashboard prints the Grafana dashboard of capv-static-ip, as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func run() error {
	built, err := newDashboard().Build()
	if err != nil {
		return fmt.Errorf("building the dashboard: %w", err)
	}
	text, err := json.MarshalIndent(built, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the dashboard: %w", err)
	}
	fmt.Println(string(text))
	return nil
}

// source is whichever Prometheus the reader has chosen: no dashboard knows its UID.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}
}

func newDashboard() *dashboard.DashboardBuilder {
	builder := dashboard.NewDashboardBuilder("capv-static-ip").
		Uid("capv-static-ip").
		Description("Static addresses of VSphereMachines: how full pools are, who waits, and whether the webhook answers.").
		Tags([]string{"cluster-api", "ipam"}).
		Time("now-6h", "now").
		Refresh("1m").
		Readonly().
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Prometheus").Type("prometheus")).
		WithVariable(variable("pool_namespace", "Namespace", `label_values(capv_static_ip_pool_waiting_owners, pool_namespace)`)).
		WithVariable(variable("pool", "Pool", `label_values(capv_static_ip_pool_waiting_owners{pool_namespace=~"$pool_namespace"}, pool)`)).
		Annotation(dashboard.NewAnnotationQueryBuilder().Name("Refused").Datasource(source()).Enable(true).IconColor("red").
			Expr(`max by (pool_namespace, kind, pool) (capv_static_ip_pool_waiting_owners{` + ofPools + `}) > 0`).Step("60s").
			TitleFormat("Owners wait").TextFormat("{{kind}} {{pool_namespace}}/{{pool}}"))
	for _, add := range []func(*dashboard.DashboardBuilder){addNow, addPools, addEachPool, addAdmission, addController} {
		add(builder)
	}
	return builder
}

func variable(name, label, query string) *dashboard.QueryVariableBuilder {
	return dashboard.NewQueryVariableBuilder(name).Label(label).Datasource(source()).
		Query(dashboard.StringOrMap{String: new(query)}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
		Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).IncludeAll(true).AllValue(".*").
		Current(dashboard.VariableOption{
			Text: dashboard.StringOrArrayOfString{String: new("All")}, Value: dashboard.StringOrArrayOfString{String: new("$__all")},
		})
}

// ofPools selects the series of the pools that the reader has chosen.
const ofPools = `pool_namespace=~"$pool_namespace",pool=~"$pool"`

func addNow(to *dashboard.DashboardBuilder) {
	to.WithRow(dashboard.NewRowBuilder("Now")).
		WithPanel(attention()).
		WithPanel(number("Owners that wait", "MachineSets and control planes whose machines were refused for want of an address.",
			`sum(max by (pool_namespace, kind, pool) (capv_static_ip_pool_waiting_owners{`+ofPools+`}))`, units.Short)).
		WithPanel(number("Addresses lost", "Addresses that machines use and that are not bound to them: others may get them.",
			`max(capv_static_ip_bindings{state="lost"})`, units.Short)).
		WithPanel(number("Releases under way", "Deleted machines that wait for nobody but capv-static-ip. It should not stay above zero.",
			`max(capv_static_ip_bindings{state="releasing"})`, units.Short)).
		WithPanel(graph("Denials by reason", "Requests that were refused, by the reason of the denial: the page on denials says what to do.", units.OpsPerSecond,
			query(`sum by (reason) (rate(capv_static_ip_admissions_total{outcome="denied"}[$__rate_interval]))`, "{{reason}}")).Span(12))
}

// attention lists the pools that are nearly full, the fullest first.
func attention() *table.PanelBuilder {
	return table.NewPanelBuilder().Title("Pools that need attention").
		Description("Pools with less than a tenth of their addresses free, and what is free in them.").
		Datasource(source()).Height(8).Span(12).Unit(units.Short).
		WithTarget(query(`sort(max by (pool_namespace, kind, pool) (capv_static_ip_pool_addresses{`+ofPools+`,state="free"})`+
			` < 0.1 * sum by (pool_namespace, kind, pool) (max by (pool_namespace, kind, pool, state) (capv_static_ip_pool_addresses{`+ofPools+`})))`, "").
			Format(prometheus.PromQueryFormatTable).Instant())
}

func addPools(to *dashboard.DashboardBuilder) {
	to.WithRow(dashboard.NewRowBuilder("Pools")).
		WithPanel(graph("Free addresses", "Addresses that the pool can still give.", units.Short,
			query(`max by (pool_namespace, kind, pool) (capv_static_ip_pool_addresses{`+ofPools+`,state="free"})`, "{{pool_namespace}}/{{pool}}")).Span(8).Min(0)).
		WithPanel(graph("Room in a roll-out", "Addresses that are left free when the largest roll-out of the pool is at its height. Below zero it stalls.", units.Short,
			query(`sum by (pool_namespace, kind, pool) (max by (pool_namespace, kind, pool, state) (capv_static_ip_pool_addresses{`+ofPools+`,state="free"}))`+
				` - max by (pool_namespace, kind, pool) (capv_static_ip_pool_surge{`+ofPools+`})`, "{{pool_namespace}}/{{pool}}")).Span(8)).
		WithPanel(graph("Time until empty", "When the pool has no address left, if it goes on as in the last seven days. A pool that is not getting emptier is not shown.", units.Seconds,
			query(`max by (pool_namespace, kind, pool) (capv_static_ip_pool_addresses{`+ofPools+`,state="free"})`+
				` / -(max by (pool_namespace, kind, pool) (deriv(capv_static_ip_pool_addresses{`+ofPools+`,state="free"}[7d])) < 0)`, "{{pool_namespace}}/{{pool}}")).Span(8))
}

// addEachPool is collapsed: there may be a thousand pools.
func addEachPool(to *dashboard.DashboardBuilder) {
	panel := graph("$pool", "What the addresses of the pool are used for.", units.Short,
		query(`max by (pool_namespace, state) (capv_static_ip_pool_addresses{pool_namespace=~"$pool_namespace",pool=~"$pool"})`, "{{pool_namespace}} {{state}}")).
		Repeat("pool").RepeatDirection(dashboard.PanelRepeatDirectionH).MaxPerRow(4).Span(6).
		Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal)).FillOpacity(60).Min(0)
	to.WithRow(dashboard.NewRowBuilder("Each pool").Collapsed(true).WithPanel(panel))
}

func addAdmission(to *dashboard.DashboardBuilder) {
	const duration = `capv_static_ip_admission_duration_seconds_bucket{operation="CREATE"}`
	to.WithRow(dashboard.NewRowBuilder("Admission")).
		WithPanel(graph("Requests", "Admission requests by what came of them.", units.OpsPerSecond,
			query(`sum by (outcome) (rate(capv_static_ip_admissions_total[$__rate_interval]))`, "{{outcome}}")).Span(8)).
		WithPanel(heatmap.NewPanelBuilder().Title("Time of a create").Description("How long creates took, the wait for the IPAM provider included.").
			Datasource(source()).Height(8).Span(8).Unit(units.Seconds).
			WithTarget(query(`sum by (le) (increase(`+duration+`[$__rate_interval]))`, "{{le}}").Format(prometheus.PromQueryFormatHeatmap))).
		WithPanel(graph("Time of a create, p50 and p99", "The API server gives up after 10 seconds.", units.Seconds,
			query(`histogram_quantile(0.5, sum by (le) (rate(`+duration+`[$__rate_interval])))`, "p50"),
			query(`histogram_quantile(0.99, sum by (le) (rate(`+duration+`[$__rate_interval])))`, "p99")).Span(8)).
		WithPanel(graph("Wait for the provider, p99", "Time from making a claim until its provider has bound it, by kind of pool.", units.Seconds,
			query(`histogram_quantile(0.99, sum by (le, pool_kind) (rate(capv_static_ip_provider_wait_seconds_bucket[$__rate_interval])))`, "{{pool_kind}}")).Span(12)).
		WithPanel(graph("Requests in flight", "Admission requests that wait now, by webhook.", units.Short,
			query(`sum by (webhook) (controller_runtime_webhook_requests_in_flight)`, "{{webhook}}")).Span(12))
}

func addController(to *dashboard.DashboardBuilder) {
	to.WithRow(dashboard.NewRowBuilder("Controller")).
		WithPanel(graph("Claims", "Claims that were released, reaped and recreated.", units.OpsPerSecond,
			query(`sum(rate(capv_static_ip_claims_released_total[$__rate_interval]))`, "released"),
			query(`sum(rate(capv_static_ip_claims_reaped_total[$__rate_interval]))`, "reaped"),
			query(`sum(rate(capv_static_ip_claims_recreated_total[$__rate_interval]))`, "recreated")).Span(8)).
		WithPanel(graph("Work queues", "Objects that wait for a controller.", units.Short,
			query(`sum by (name) (workqueue_depth{job=~".*capv-static-ip.*"})`, "{{name}}")).Span(8)).
		WithPanel(graph("Memory", "Resident memory of each replica.", units.BytesIEC,
			query(`process_resident_memory_bytes * on (instance) group_left () capv_static_ip_build_info`, "{{instance}}")).Span(8)).
		WithPanel(number("Leaders", "Replicas that run the controllers. It has to be one.",
			`sum(leader_election_master_status{name="capv-static-ip-leader-election"})`, units.Short)).
		WithPanel(number("Certificate ends in", "Time until the certificate ends that the webhook is served with. It is renewed 30 days before.",
			`min(capv_static_ip_webhook_certificate_not_after_timestamp_seconds) - time()`, units.Seconds)).
		WithPanel(table.NewPanelBuilder().Title("Versions").Description("The versions that run.").Datasource(source()).Height(8).Span(16).Unit(units.Short).
			WithTarget(query(`count by (version, go_version) (capv_static_ip_build_info)`, "").Format(prometheus.PromQueryFormatTable).Instant()))
}

func query(expression, legend string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source()).Expr(expression).LegendFormat(legend)
}

func graph(title, description, unit string, queries ...*prometheus.DataqueryBuilder) *timeseries.PanelBuilder {
	panel := timeseries.NewPanelBuilder().Title(title).Description(description).Datasource(source()).Height(8).Unit(unit)
	for i, q := range queries {
		panel.WithTarget(q.RefId(string(rune('A' + i))))
	}
	return panel
}

func number(title, description, expression, unit string) *stat.PanelBuilder {
	return stat.NewPanelBuilder().Title(title).Description(description).Datasource(source()).Height(8).Span(4).Unit(unit).
		WithTarget(query(expression, "").Instant())
}
