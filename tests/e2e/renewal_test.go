package e2e

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

func TestRenewalOfTheServingCertificateFailsNoCreate(t *testing.T) {
	s := newScene(t, secondStack(t))
	const renewals, machines, burst = 3, 40, 4
	s.create(s.pool(harness.OfMetal3, harness.DefaultPool, 10, 254))
	served := map[string]bool{}
	s.noteSerials(served)

	var living []*capvv1.VSphereMachine
	began, created := time.Now(), 0
	for len(served) <= renewals || created < machines {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("there were %d renewals in %s, want %d", len(served)-1, time.Since(began), renewals)
		}
		// A connection that is there already knows nothing of certificates.
		s.cutConnections()
		count := 1
		if s.noteSerials(served) {
			s.step("the certificate was renewed, after %d machines", created)
			count = burst
		}
		living = append(living, s.createAtOnce(created, count)...)
		created += count
		if old := len(living) - machines; old > 0 {
			s.deleteAll(living[:old])
			living = living[old:]
		}
	}
	s.step("%d machines during %d renewals, no create failed", created, len(served)-1)
	s.deleteAll(living)
}

// noteSerials notes the serial numbers of the certificates that the replicas
// serve with, and tells whether one is new.
func (s *scene) noteSerials(served map[string]bool) bool {
	s.Helper()
	serials, err := s.stack.ServingSerials(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	before := len(served)
	for _, serial := range serials {
		served[serial] = true
	}
	return len(served) > before
}

// createAtOnce creates that many machines at the same time, numbered from a number.
func (s *scene) createAtOnce(from, count int) []*capvv1.VSphereMachine {
	s.Helper()
	made := make([]*capvv1.VSphereMachine, count)
	group, ctx := errgroup.WithContext(s.Context())
	for i := range count {
		made[i] = harness.Machine(s.ns, fmt.Sprintf("machine-%d", from+i), harness.WithPool(harness.DefaultPool))
		group.Go(func() error { return s.stack.Plane.Client.Create(ctx, made[i]) })
	}
	if err := group.Wait(); err != nil {
		s.Fatalf("creating a machine: %v", err)
	}
	for _, machine := range made {
		if len(harness.Addresses(machine)) != 1 {
			s.Errorf("machine %s was stored with %v", machine.Name, harness.Addresses(machine))
		}
	}
	return made
}

func (s *scene) deleteAll(machines []*capvv1.VSphereMachine) {
	s.Helper()
	for _, machine := range machines {
		s.delete(machine)
	}
}

// cutConnections makes the API server connect anew to each replica, when no
// request of the test is under way.
func (s *scene) cutConnections() {
	for _, manager := range s.stack.Managers {
		s.stack.Installation.Forwarder.Cut(manager.WebhookAddress)
	}
}
