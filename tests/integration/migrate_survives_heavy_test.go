//go:build heavy

package integration

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/migration"
	"capv-static-ip.dev/tests/harness"
)

// TestMigrationSurvives has one environment for all that may befall those that a migration
// depends on.
func TestMigrationSurvives(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 2)
	inCluster, err := env.StartInCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Providers that are paused would not answer the calls of their webhooks either.
	if err := errors.Join(env.metal3.RemoveWebhooks(t.Context()), inCluster.RemoveWebhooks(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Run("the silence of the new provider", func(t *testing.T) {
		newRelocation(t, env, harness.OfMetal3, harness.OfInCluster, 2).survivesSilence(inCluster.Process)
	})
	t.Run("the silence of the old provider", func(t *testing.T) {
		newRelocation(t, env, harness.OfMetal3, harness.OfInCluster, 2).finishesWithout(env.metal3.Process)
	})
	t.Run("the death of the leader", func(t *testing.T) {
		newRelocation(t, env, harness.OfMetal3, harness.OfInCluster, 2).survivesTheLeader()
	})
}

// survivesSilence has the provider of the new pool say nothing: the first machine stays half
// way, and is finished when it says something again.
func (r *relocation) survivesSilence(provider *harness.Process) {
	r.Helper()
	provider.Pause()
	resume := sync.OnceFunc(provider.Resume)
	r.Cleanup(resume)
	r.m.Timeout = time.Second

	if err := r.m.Run(r.Context()); err == nil || !strings.Contains(err.Error(), "IPAM provider") {
		r.Fatalf("got %v, want to be told that the provider does not answer", err)
	}
	if err := r.isSafe(); err != nil {
		r.Error(err)
	}
	r.consistently("the manager to leave it alone", func(context.Context) error { return r.isSafe() })

	resume()
	r.m.Timeout = harness.Soon
	r.finishes()
}

// finishesWithout has the provider of the old pool free nothing: the machines are moved all
// the same.
func (r *relocation) finishesWithout(provider *harness.Process) {
	r.Helper()
	provider.Pause()
	resume := sync.OnceFunc(provider.Resume)
	r.Cleanup(resume)

	if err := r.m.Run(r.Context()); err != nil {
		r.Fatal(err)
	}
	if err := r.isSafe(); err != nil {
		r.Error(err)
	}
	resume()
	r.finishes()
}

// survivesTheLeader has the leader die while a machine is half way.
func (r *relocation) survivesTheLeader() {
	r.Helper()
	if !r.diesAfter(7, (*migration.Migration).Run) {
		r.Fatal("it was not killed half way")
	}
	leader, _ := r.leader()
	leader.Kill()
	r.Cleanup(func() {
		if err := leader.Start(context.Background()); err != nil {
			r.Error(err)
		}
	})
	r.finishes()
}

func TestMigrationThatIsKilledAfterAnyWriteCanBeUndone(t *testing.T) {
	t.Parallel()
	betweenProviders(t, undoneWheneverKilled)
}

// undoneWheneverKilled kills a migration before the first machine is begun, and then whatever is
// done about it.
func undoneWheneverKilled(t *testing.T, from, to harness.Fixture) {
	r := newRelocation(t, shared, from, to, 1)
	for writes := int64(1); ; writes++ {
		died := r.diesAfter(writes, (*migration.Migration).Run)
		if err := r.isSafe(); err != nil {
			t.Fatalf("after %d writes: %v", writes, err)
		}
		if err := r.m.Abort(t.Context()); err != nil {
			t.Fatalf("undoing after %d writes: %v", writes, err)
		}
		if err := r.isSafe(); err != nil {
			t.Fatalf("undone after %d writes: %v", writes, err)
		}
		if bindings, err := ipam.ParseBindings(r.machine("m-0").Annotations[ipam.BindingsAnnotation]); err != nil || bindings.Bindings[0].Pool == r.m.To.PoolReference {
			t.Logf("beyond the point of no return after %d writes", writes)
			r.eventually("the machine to be held by the new pool alone", func(context.Context) error { return r.heldBy(r.m.To) })
			break
		}
		r.eventually("the machine to be held by the old pool alone", func(context.Context) error { return r.heldBy(r.m.From) })
		if !died {
			t.Fatal("it was not killed, and nothing has moved")
		}
	}
	r.goes()
}
