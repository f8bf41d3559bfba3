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

// somebodys is a claim of somebody's own on the provider's default pool, with its address.
func (s *scene) somebodys(f harness.Fixture) (claim, address client.Object) {
	s.Helper()
	claim = f.Claim(s.ns, "somebodys", f.PoolName)
	s.create(claim)
	s.eventually("somebody's claim to be bound", func(context.Context) error {
		for _, address = range s.addresses() {
			if harness.ProviderOf(address).ReadAddress(address).Claim == claim.GetName() {
				return nil
			}
		}
		return errors.New("it has no address")
	})
	return claim, address
}

// The in-cluster provider may put our finalizer back on an address of which we have just taken it
// off, see docs/upstream.md: it writes the finalizers that its cache had. Then no mark says whose
// the address was, and no claim leads to it.
func TestAddressThatItsProviderGivesOurFinalizerBackGoes(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		claim, address := s.somebodys(f)
		s.change(address, func() { controllerutil.AddFinalizer(address, ipam.InUseFinalizer) })

		s.delete(claim)

		s.gone(address)
		s.gone(claim)
	})
}
