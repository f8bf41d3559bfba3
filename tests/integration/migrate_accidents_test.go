package integration

import (
	"context"
	"errors"
	"os/exec"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/migration"
	"capv-static-ip.dev/tests/harness"
)

// finishes runs it to its end.
func (r *relocation) finishes() {
	r.Helper()
	if err := r.m.Run(r.Context()); err != nil {
		r.Fatal(err)
	}
	if err := r.isSafe(); err != nil {
		r.Error(err)
	}
	r.within(2*harness.Soon, "all machines to be held by the new pool alone", func(context.Context) error { return r.heldBy(r.m.To) })
}

// Machines are made, deleted and replaced meanwhile, by templates that ask for the new pool
// from a moment on.
func TestMachinesComeAndGoWhileOthersAreMoved(t *testing.T) {
	t.Parallel()
	betweenProviders(t, comeAndGoMeanwhile)
}

func comeAndGoMeanwhile(t *testing.T, from, to harness.Fixture) {
	r := newRelocation(t, shared, from, to, 3)
	halfWay := r.machine("m-0")
	if !r.diesAfter(6, (*migration.Migration).Run) {
		t.Fatal("it was not killed half way")
	}
	if _, migrating := r.machine("m-0").Annotations[ipam.MigratingAnnotation]; !migrating {
		t.Error("the machine is not half way")
	}

	// One goes that is half way, and one that is not begun.
	r.delete(halfWay)
	r.delete(r.machine("m-2"))
	r.gone(halfWay)
	delete(r.devices, "m-0")
	delete(r.devices, "m-2")
	r.next(harness.Machine(r.ns, "m-3", to.Ask("new-pool")))
	if err := r.isSafe(); err != nil {
		t.Error(err)
	}

	r.finishes()
	r.goes()
}

func TestPluginMovesMachinesAndGoesOnWhereItWasKilled(t *testing.T) {
	t.Parallel()
	r := newRelocation(t, shared, harness.OfMetal3, harness.OfInCluster, 3)
	const asks = ipam.PoolsAnnotationPrefix + "0"
	template := harness.Template(r.ns, "workers", harness.WithAnnotation(asks, "IPPool/"+r.from.PoolName))
	r.create(template)
	args := []string{"migrate", "--from", "IPPool/" + r.from.PoolName, "--to", "InClusterIPPool/new-pool", "--templates"}

	// docs/migrate.md has it as an example.
	r.golden("migrate", 0, args...)
	if err := r.heldBy(r.m.From); err != nil {
		t.Error(err)
	}

	kills := 0
	for r.pluginIsKilledAtItsFirstWord(append(args, "--yes")) {
		if err := r.isSafe(); err != nil {
			t.Error(err)
		}
		if kills++; kills > 20 {
			t.Fatal("it does not come to an end")
		}
	}
	if kills == 0 {
		t.Error("it was never killed")
	}
	r.eventually("all machines to be held by the new pool alone", func(context.Context) error { return r.heldBy(r.m.To) })
	if err := r.env.Client.Get(t.Context(), client.ObjectKeyFromObject(template), template); err != nil {
		t.Fatal(err)
	}
	if got, want := template.Annotations[asks], "InClusterIPPool/new-pool"; got != want {
		t.Errorf("the template asks for %s, want %s", got, want)
	}
}

// pluginIsKilledAtItsFirstWord runs the plugin until it tells of a machine, and kills it. It
// tells whether it had to.
func (r *relocation) pluginIsKilledAtItsFirstWord(args []string) bool {
	r.Helper()
	path, err := builtPlugin()
	if err != nil {
		r.Fatal(err)
	}
	cmd := exec.CommandContext(r.Context(), path, r.pluginArgs(args)...)
	err = harness.KilledAt(cmd, " of ", func(line string) { r.Logf("it says: %s", line) })
	if err != nil && !errors.Is(err, harness.ErrCameToItsEnd) {
		r.Fatal(err)
	}
	return err == nil
}

func TestMigrationBackGivesTheOldPoolItsAddresses(t *testing.T) {
	t.Parallel()
	betweenProviders(t, func(t *testing.T, from, to harness.Fixture) {
		r := newRelocation(t, shared, from, to, 2)
		if err := r.m.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		back := r.migration(r.m.Client)
		back.From, back.To = r.m.To, r.m.From

		if err := back.Run(t.Context()); err != nil {
			t.Fatal(err)
		}

		if err := r.isSafe(); err != nil {
			t.Error(err)
		}
		r.eventually("all machines to be held by the old pool again", func(context.Context) error { return r.heldBy(r.m.From) })
		r.next(r.asks(from, "next"))
	})
}

// A claim of somebody else's stays where it is, and its address is not handed out twice.
func TestClaimOfOthersStaysInTheOldPool(t *testing.T) {
	t.Parallel()
	betweenProviders(t, func(t *testing.T, from, to harness.Fixture) {
		r := newRelocation(t, shared, from, to, 1)
		other := r.foreignClaim(from, "vip")
		held := r.bind(other).IP

		if err := r.m.Run(t.Context()); err != nil {
			t.Fatal(err)
		}

		r.next(harness.Machine(r.ns, "next", to.Ask("new-pool")), held)
		r.boundTo(other, held)
		if _, migrating := r.machine("m-0").Annotations[ipam.MigratingAnnotation]; migrating {
			t.Error("the machine is half way")
		}

		// Whoever deletes the old pool then has the new one give free what it has kept for that.
		if err := r.m.Finish(t.Context()); err == nil {
			t.Error("what is kept for a pool that exists is given free")
		}
		r.delete(other)
		r.gone(other)
		old := from.Pool(r.ns)
		r.delete(old)
		r.gone(old)
		if err := r.m.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.create(harness.Machine(r.ns, "last", to.Ask("new-pool")))
		if got := r.ip("last"); got != held {
			t.Errorf("the next machine gets %s, want %s, which is free again", got, held)
		}
		r.devices["last"] = r.machine("last").Spec.Network.Devices
	})
}
