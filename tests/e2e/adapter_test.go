package e2e

import (
	"context"
	"testing"
	"time"

	"capv-static-ip.dev/tests/harness"
)

// It is the first test, since nobody comes over twice: from then on, capv-static-ip is in the
// second stack. What is there of the adapter is played, see harness.Adapter.
func TestMachinesOfTheStaticIPAdapterAreAdoptedAndThenReplaced(t *testing.T) {
	on := bareSecondStack(t)
	if second.isInstalled {
		t.Fatal("capv-static-ip is in the second stack already: another test was before this one")
	}
	s := newScene(t, on)
	admin := s.stack.Plane.Kubeconfig
	s.runAdapter()
	template := s.template("workers", harness.OfMetal3.Ask("pool"))
	workers := s.workers(template, "md-0", 1)
	s.create(s.pool(harness.OfMetal3, "pool", 88, 90), template, workers)
	before := s.untouchedFrom(s.nodes(workers))

	// The adapter is stopped, and one machine more waits for whoever comes.
	s.pluginSays(admin, 1, "capv-static-ip is not installed", "adopt-adapter", "--yes")
	s.scale(workers, 2)
	s.awaitMachines(workers, 2)
	secondStack(t)
	s.step("capv-static-ip is installed")
	s.pluginIsKilled(admin, "step 3 of 7 is done", "adopt-adapter", "--yes", "--timeout=2m")
	s.pluginSays(admin, 0, "The adapter is gone.", "adopt-adapter", "--yes", "--timeout=2m")

	nodes := s.nodes(workers)
	s.eventually(harness.Soon, "all machines to hold their addresses", func(ctx context.Context) error { return s.allHeld(ctx, nodes) })
	before.check()

	s.rollTo(workers, s.template("next", harness.OfMetal3.Ask("pool")))
	s.replaced(workers, madeOf("next"))
	// Three addresses, of which the adapter's machine, and the one that waited, had one each.
	s.expectReuse(1)
}

// runAdapter installs the adapter, and plays its Pod until the test ends.
func (s *scene) runAdapter() {
	s.Helper()
	adapter := &harness.Adapter{Client: s.stack.Plane.Client, Retry: 2 * time.Second}
	if err := adapter.Install(s.Context()); err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan error, 1)
	go func() { ended <- adapter.Run(ctx) }()
	s.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.Error(err)
		}
	})
}
