package e2e

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// The control plane's controller writes conditions of its own into the same list.
func TestRefusedControlPlaneSaysSoInAConditionUntilItsMachineComes(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared, withControlPlane)
	by := harness.OfMetal3
	holder := by.Claim(s.ns, "foreign", "pool")
	template := s.template("control-plane", by.Ask("pool"))
	controlPlane := s.controlPlane(template, 1)
	s.create(s.pool(by, "pool", 10, 10), holder)
	if _, err := s.boundTo(by, "foreign"); err != nil {
		t.Fatal(err)
	}
	s.create(template, controlPlane)

	var told map[string]any
	s.eventually(provisioned, "the control plane to say why it has no machine", func(context.Context) error {
		told = s.conditionOf(controlPlane)
		if told["status"] != "False" || told["reason"] != string(ipam.PoolExhausted) {
			return fmt.Errorf("it says %v", told)
		}
		return nil
	})
	s.awaitBackOff()
	if got := s.conditionOf(controlPlane); fmt.Sprint(got) != fmt.Sprint(told) {
		t.Errorf("after the tries of CAPI it says %v, said %v", got, told)
	}

	s.delete(holder)
	s.controlPlaneNodes(1)
	s.eventually(2*harness.Soon, "the control plane to say nothing any more", func(context.Context) error {
		if got := s.conditionOf(controlPlane); got != nil {
			return fmt.Errorf("it says %v", got)
		}
		return nil
	})
}

// conditionOf is what a control plane says of its addresses, nil if it says nothing.
func (s *scene) conditionOf(controlPlane *unstructured.Unstructured) map[string]any {
	s.Helper()
	s.get(controlPlane)
	conditions, _, err := unstructured.NestedSlice(controlPlane.Object, "status", "conditions")
	if err != nil {
		s.Fatal(err)
	}
	for _, condition := range conditions {
		if fields := condition.(map[string]any); fields["type"] == ipam.AddressesAvailableCondition {
			return fields
		}
	}
	return nil
}
