package e2e

import (
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/tests/harness"
)

// This test counts what reaches the webhook, so it must not run beside others.
func TestMachinesWithDHCPNeverReachTheWebhook(t *testing.T) {
	s := newScene(t, shared)
	pool := s.pool(harness.OfMetal3, "pool", 88, 93)
	static := s.template("static", harness.OfMetal3.Ask("pool"))
	// The pool is asked for, and what the device has comes first.
	dynamic := s.template("dynamic", harness.OfMetal3.Ask("pool"), harness.WithDevices(harness.DHCPDevice()))
	s.create(pool, static, dynamic)
	before := s.admissions()

	others := s.workers(dynamic, "md-dhcp", 2)
	s.create(others)
	if _, err := shared.AwaitNodes(t.Context(), others, provisioned); err != nil {
		t.Fatal(err)
	}
	s.step("%s has its virtual machines", others.Name)
	s.scale(others, 1)
	s.deleting(others, 1)

	if got := s.admissions() - before; got != 0 {
		t.Errorf("the webhook was called %v times for machines with DHCP, want never", got)
	}
	claims := &ipamv1.IPClaimList{}
	s.list(claims)
	if len(claims.Items) > 0 {
		t.Errorf("there are claims for machines with DHCP: %v", claims.Items)
	}

	workers := s.workers(static, "md-static", 2)
	s.create(workers)
	s.nodes(workers)

	if got := s.admissions() - before; got < 2 {
		t.Errorf("the webhook was called %v times for two machines without DHCP", got)
	}
}

// admissions is how often the webhook was called, on all replicas.
func (s *scene) admissions() float64 {
	s.Helper()
	var sum float64
	for _, manager := range s.stack.Managers {
		count, err := manager.Metric(s.Context(), "capv_static_ip_admissions_total", nil)
		if err != nil {
			s.Fatal(err)
		}
		sum += count
	}
	return sum
}
