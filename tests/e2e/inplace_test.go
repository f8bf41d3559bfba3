package e2e

import (
	"slices"
	"testing"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// The feature InPlaceUpdates makes CAPI apply the template's devices, whole, to
// a machine that lives.
func TestDevicesOfTheTemplateAppliedInPlaceTakeNoAddressAway(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		template := s.template("workers", provider.Ask("pool"))
		workers := s.workers(template, "md-0", 1)
		s.create(s.pool(provider, "pool", 88, 93), template, workers)
		before := s.nodes(workers)[0]
		desired := &capvv1.VSphereMachine{}
		desired.Namespace, desired.Name = s.ns, before.Machine.Name
		desired.Spec = template.Spec.Template.Spec
		if held := harness.Addresses(desired); len(held) > 0 {
			t.Fatalf("the template has addresses %v", held)
		}

		err := harness.Apply(t.Context(), shared.Plane.Client, desired, harness.MachineSetManager)
		if err != nil {
			t.Fatal(err)
		}

		// Who reads the machine's spec cannot even see that there was an apply.
		if desired.Generation != before.Machine.Generation {
			t.Errorf("the apply changed the machine from\n%+v\nto\n%+v", before.Machine.Spec, desired.Spec)
		}
		after := s.nodes(workers)[0]
		s.expectNetwork(after)
		if after.VM.ID != before.VM.ID || after.VM.Metadata != before.VM.Metadata {
			t.Errorf("the virtual machine was\n%+v\nand is\n%+v", before.VM, after.VM)
		}
		events, err := s.events(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		configured := slices.DeleteFunc(events, func(event stack.VMEvent) bool { return event.Kind != stack.VMConfigured })
		if len(configured) != 1 {
			t.Errorf("the virtual machine was given metadata %d times, want once: %v", len(configured), configured)
		}
	})
}
