package e2e

import (
	"context"
	"testing"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// foretold checks what the plugin says of a roll-out that has not begun.
func (s *scene) foretold(stalls bool) {
	s.Helper()
	code, output := s.runPlugin(s.stack.Plane.Kubeconfig, "capacity", harness.DefaultCluster, "--check")
	if want := map[bool]int{false: 0, true: 1}[stalls]; code != want {
		s.Errorf("capacity --check exits with %d, want %d:\n%s", code, want, output)
	}
	s.step("it is foretold whether the roll-out stalls (%v):\n%s", stalls, output)
}

// rollTo replaces the machines by those of another template.
func (s *scene) rollTo(workers *clusterv1.MachineDeployment, template *capvv1.VSphereMachineTemplate) {
	s.Helper()
	s.create(template)
	patch(s, workers, func(workers *clusterv1.MachineDeployment) {
		workers.Spec.Template.Spec.InfrastructureRef.Name = template.Name
	})
}

func TestRollOutGoesAsIsForetold(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	by := harness.OfInCluster
	template := s.template("first", by.Ask("pool"))
	workers := s.workers(template, "md-0", 1)
	s.create(s.pool(by, "pool", 88, 89), template, workers)
	s.nodes(workers)

	s.foretold(false)
	s.rollTo(workers, s.template("second", by.Ask("pool")))
	s.replaced(workers, madeOf("second"))
	const exhausted = "is exhausted: 2 of 2 addresses in use"
	if s.refused(t.Context(), exhausted) == nil {
		t.Error("a machine was refused in a roll-out that has what it needs")
	}

	others := s.workers(template, "md-1", 1)
	s.create(others)
	s.nodes(others)
	s.foretold(true)
	s.rollTo(workers, s.template("third", by.Ask("pool")))
	s.eventually(provisioned, "the roll-out to be refused", func(ctx context.Context) error { return s.refused(ctx, exhausted) })
	nodes, err := s.stack.Nodes(t.Context(), workers)
	if err != nil || len(nodes) != 1 || !madeOf("second")(nodes[0].Machine) {
		t.Errorf("there are %d machines, error %v; want the one that there was", len(nodes), err)
	}
}

// madeOf tells whether a machine is of this template.
func madeOf(template string) func(*capvv1.VSphereMachine) bool {
	return func(machine *capvv1.VSphereMachine) bool {
		return machine.Annotations[clusterv1.TemplateClonedFromNameAnnotation] == template
	}
}
