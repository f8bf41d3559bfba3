package integration

import (
	"context"
	"sync"
	"testing"

	"capv-static-ip.dev/tests/harness"
)

// The caches of a leader that did not run for a while catch up one after the other: it may see
// the old claims go before it sees that the machines are held by new ones.
func TestLeaderThatWasPausedWhileMachinesWereMovedWritesNothingBack(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 1)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]direction{"metal3 to in-cluster": directions[0], "in-cluster to metal3": directions[1]} {
		t.Run(name, func(t *testing.T) {
			r := newRelocation(t, env, d.from, d.to, 4)
			leader := env.managers[0]
			leader.Pause()
			resume := sync.OnceFunc(leader.Resume)
			t.Cleanup(resume)
			if err := r.m.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			resume()

			r.within(2*harness.Soon, "all machines to be held by the new pool alone", func(context.Context) error { return r.heldBy(r.m.To) })
			r.consistently("nothing is written back", func(context.Context) error { return r.heldBy(r.m.To) })
		})
	}
}
