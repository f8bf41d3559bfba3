package integration

import (
	"bufio"
	"context"
	"os/exec"
	"strings"
	"testing"

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
	args := []string{"migrate", "--from", "IPPool/" + r.from.PoolName, "--to", "InClusterIPPool/new-pool"}

	stdout, stderr, code := r.plugin(args...)
	if code != 0 || !strings.Contains(stdout, "m-0  ready") || !strings.Contains(stderr, "Nothing was changed") {
		t.Errorf("got %d, %q and %q, want the plan alone", code, stdout, stderr)
	}
	t.Logf("the plan:\n%s%s", stdout, stderr)
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
	output, err := cmd.StderrPipe()
	if err != nil {
		r.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	for lines := bufio.NewScanner(output); lines.Scan(); {
		r.Logf("it says: %s", lines.Text())
		if strings.Contains(lines.Text(), " of ") {
			_ = cmd.Process.Kill()
		}
	}
	return cmd.Wait() != nil
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
	})
}
