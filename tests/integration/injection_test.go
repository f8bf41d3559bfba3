package integration

import (
	"testing"

	"capv-static-ip.dev/tests/harness"
)

func TestMachineGetsAnAddressFromThePoolOfItsLabel(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))

	if got := harness.Addresses(s.machine("cp-0")); len(got) != 1 || got[0] != "10.16.56.88/24" {
		t.Errorf("got addresses %v, want the pool's first, 10.16.56.88/24", got)
	}
}
