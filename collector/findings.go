package collector

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"capv-static-ip.dev/inventory"
)

// firstAudit is how long after a replica has become the leader it looks for the first time:
// its controllers have to catch up.
const firstAudit = time.Minute

var auditFindings = prometheus.NewDesc("capv_static_ip_audit_findings",
	"What is not as it should be by check and severity, as kubectl static-ip audit would find it; the leader tells, once per sync period.",
	[]string{"check", "severity"}, nil)

// Auditor counts what is wrong, on the leader, by what it has in its caches.
type Auditor struct {
	Collector *Collector
	// Every is how often it looks.
	Every  time.Duration
	Limits inventory.Limits

	mu     sync.Mutex
	counts map[finding]int
}

// finding is what findings are counted by.
type finding struct {
	check    inventory.CheckID
	severity inventory.Severity
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*Auditor) NeedLeaderElection() bool { return true }

// Start implements manager.Runnable.
func (a *Auditor) Start(ctx context.Context) error {
	wait := min(firstAudit, a.Every)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = a.Every
		if err := a.audit(ctx, inventory.SecondLook); err != nil {
			klog.FromContext(ctx).V(1).Info("Cannot look for what is wrong", "cause", err.Error())
		}
	}
}

// audit looks once. Checks that need a kind which is not watched are left out.
func (a *Auditor) audit(ctx context.Context, pause time.Duration) error {
	source := inventory.Source{Client: a.Collector.Client, Reader: servedOnly{watchedOnly{a.Collector}}, Providers: a.Collector.Providers, Now: time.Now}
	report, err := source.Audit(ctx, a.Limits, pause)
	counts := map[finding]int{}
	if err == nil {
		counts = countFindings(report)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts = counts
	return err
}

// servedOnly reads what is watched, and knows that there is nothing of a kind that is not
// served: of two providers often one is installed.
type servedOnly struct{ watchedOnly }

// List implements client.Reader.
func (s servedOnly) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	err := s.watchedOnly.List(ctx, list, options...)
	if !errors.Is(err, errNotWatched) {
		return err
	}
	gvk, unknown := apiutil.GVKForObject(list, s.Client.Scheme())
	if unknown != nil {
		return unknown
	}
	kind := schema.GroupKind{Group: gvk.Group, Kind: strings.TrimSuffix(gvk.Kind, "List")}
	if _, unserved := s.Client.RESTMapper().RESTMapping(kind, gvk.Version); meta.IsNoMatchError(unserved) {
		return unserved
	}
	return err
}

// countFindings has a number for each check that was made, also where that is none.
func countFindings(report *inventory.Report) map[finding]int {
	counts := map[finding]int{}
	for _, id := range inventory.CheckIDs() {
		if report.Makes(id) && !slices.ContainsFunc(report.LeftOut, func(left inventory.LeftOut) bool { return left.Check == id }) {
			counts[finding{id, inventory.Failing}], counts[finding{id, inventory.Risky}] = 0, 0
		}
	}
	for _, f := range report.Findings {
		counts[finding{f.Check, f.Severity}]++
	}
	return counts
}

// Describe implements prometheus.Collector.
func (*Auditor) Describe(descs chan<- *prometheus.Desc) { descs <- auditFindings }

// Collect implements prometheus.Collector.
func (a *Auditor) Collect(metrics chan<- prometheus.Metric) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for of, count := range a.counts {
		metrics <- gauge(auditFindings, float64(count), string(of.check), string(of.severity))
	}
}
