package integration

import (
	"context"
	"errors"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// The in-cluster provider may put our finalizer back on an address of which we have just taken it
// off, see docs/upstream.md: it writes the finalizers that its cache had. Then no mark says whose
// the address was, and no claim leads to it.
func TestAddressThatItsProviderGivesOurFinalizerBackGoes(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		claim := f.Claim(s.ns, "somebodys", f.PoolName)
		s.create(claim)
		var address client.Object
		s.eventually("the claim to be bound", func(context.Context) error {
			for _, address = range s.addresses() {
				if harness.ProviderOf(address).ReadAddress(address).Claim == claim.GetName() {
					return nil
				}
			}
			return errors.New("there is no address")
		})
		s.change(address, func() { controllerutil.AddFinalizer(address, ipam.InUseFinalizer) })

		s.delete(claim)

		s.gone(address)
		s.gone(claim)
	})
}
