package e2e

import (
	"context"
	"fmt"
	"testing"

	"capv-static-ip.dev/tests/harness"
)

func TestReplicasThatAreKilledDuringAScaleUpCostNoMachineItsAddress(t *testing.T) {
	s := newScene(t, secondStack(t))
	const replicas, spare = 30, 4
	template := s.template("workers", harness.OfMetal3.Ask("workers"))
	workers := s.workers(template, "md-killed", 1)
	s.create(s.pool(harness.OfMetal3, "workers", 10, 10+replicas+spare-1), template, workers)
	s.nodes(workers)

	s.scale(workers, replicas)
	s.awaitMachines(workers, 5)
	leader := s.leader()
	for _, manager := range s.stack.Managers {
		if manager != leader {
			s.killAndStart(manager)
			s.step("killed a replica that does not lead")
		}
	}
	s.awaitMachines(workers, 12)
	s.killAndStart(s.leader())
	s.step("killed the leader")
	s.awaitMachines(workers, 20)
	s.killAndStart(s.stack.Managers...)
	s.step("killed all replicas")

	nodes := s.nodes(workers)
	for _, node := range nodes {
		if len(node.VM.Addresses) != 1 {
			t.Errorf("virtual machine %s has %v, want one address", node.VM.Name, node.VM.Addresses)
		}
	}
	s.eventually(provisioned, "all machines to hold their addresses", func(ctx context.Context) error { return s.allHeld(ctx, nodes) })
	s.step("all machines hold their addresses")
	err := s.stack.Plane.AwaitAgreement(t.Context(), 2*gracePeriod, harness.InvariantOptions{Namespaces: []string{s.ns}})
	if err != nil {
		t.Error(err)
	}
	s.step("the invariants hold")

	s.delete(workers)
	s.gone(workers, provisioned)
	s.awaitFree()
}

// killAndStart kills replicas, all before the first is started again.
func (s *scene) killAndStart(managers ...*harness.Manager) {
	s.Helper()
	for _, manager := range managers {
		manager.Kill()
	}
	for _, manager := range managers {
		if err := manager.Start(s.Context()); err != nil {
			s.Fatal(err)
		}
	}
}

// leader waits until a replica leads.
func (s *scene) leader() *harness.Manager {
	s.Helper()
	var leader *harness.Manager
	s.eventually(provisioned, "a replica to lead", func(ctx context.Context) (err error) {
		if leader, err = s.stack.Leader(ctx); err == nil && leader == nil {
			err = fmt.Errorf("none does")
		}
		return err
	})
	return leader
}
