package collector

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/inventory"
)

func auditorOf(t *testing.T, p *parts) *Auditor {
	t.Helper()
	c := collectorOf(t, server(t, append(p.objects(), aPool("p", "10.0.0.1", "10.0.0.9"))...))
	return &Auditor{Collector: c, Every: time.Hour, Limits: inventory.Limits{Claim: time.Minute}}
}

func TestLeaderCountsWhatIsWrong(t *testing.T) {
	p := whole()
	p.machine.Annotations, p.machine.Spec.Network.Devices[0].IPAddrs = nil, nil
	a := auditorOf(t, p)
	a.Collector.Client = served{a.Collector.Client, meta.NewDefaultRESTMapper(nil)}
	if err := a.audit(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := a.counts[finding{inventory.NoSource, inventory.Risky}]; got != 1 {
		t.Errorf("%d machines wait, want 1: %v", got, a.counts)
	}
	if count, made := a.counts[finding{inventory.ClaimFailed, inventory.Risky}]; !made || count != 0 {
		t.Errorf("a check that finds nothing has the count %d (%t), want 0", count, made)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(a)
	if n, err := testutil.GatherAndCount(registry, "capv_static_ip_audit_findings"); err != nil || n != len(a.counts) {
		t.Errorf("%d series are served (%v), want %d", n, err, len(a.counts))
	}
}

// Nothing is listed for the audit alone, and what is not seen is no finding.
func TestAuditOfTheLeaderLeavesOutWhatIsNotWatched(t *testing.T) {
	p := whole()
	noAddress(p)
	a := auditorOf(t, p)
	// All kinds of the scheme are served here.
	a.Collector.Client = served{a.Collector.Client, testrestmapper.TestOnlyStaticRESTMapper(a.Collector.Client.Scheme())}
	if err := a.audit(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for _, id := range []inventory.CheckID{inventory.NotBound, inventory.TooFewForRollOut, inventory.WebhookUnready} {
		if _, made := a.counts[finding{id, inventory.Failing}]; made {
			t.Errorf("%s was made without what it needs", id)
		}
	}
}

// Of a kind that no API server has, nothing is missing.
func TestAuditOfTheLeaderNeedsNothingOfWhatIsNotServed(t *testing.T) {
	p := whole()
	noAddress(p)
	a := auditorOf(t, p)
	a.Collector.Client = served{a.Collector.Client, meta.NewDefaultRESTMapper(nil)}
	if err := a.audit(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := a.counts[finding{inventory.NotBound, inventory.Failing}]; got != 1 {
		t.Errorf("%d machines use what is not kept for them, want 1: %v", got, a.counts)
	}
}

// served is a client of an API server that serves what this mapper knows.
type served struct {
	client.Client
	mapper meta.RESTMapper
}

// RESTMapper implements client.Client.
func (s served) RESTMapper() meta.RESTMapper { return s.mapper }
