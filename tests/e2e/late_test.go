package e2e

import (
	"context"
	"errors"
	"testing"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// CAPV waits with the VM of a machine that was stored without an address, and makes it
// with the one that the machine gets later.
func TestLateAddressReachesTheClone(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared)
		template := s.template("workers")
		workers := s.workers(template, "md-late", 2)
		waiters := s.watchWaiting()
		s.create(s.pool(by, "late", 120, 125), template, workers)
		s.eventually(provisioned, "VMs that wait for an address", func(context.Context) error {
			seen, err := waiters.list()
			if len(seen) < 2 {
				return errors.Join(errors.New("there are too few"), err)
			}
			return err
		})

		// Until now nobody asked.
		patch(s, template, func(template *capvv1.VSphereMachineTemplate) { by.Ask("late")(template) })

		for _, node := range s.nodes(workers) {
			s.expectNetwork(node)
			if err := s.expectBound(node.Machine, by); err != nil {
				t.Error(err)
			}
		}
	})
}
