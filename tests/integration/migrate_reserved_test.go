package integration

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/migration"
	"capv-static-ip.dev/tests/harness"
)

// reserves has a pool give an address to nobody.
func (r *relocation) reserves(f harness.Fixture, pool, ip string) {
	r.Helper()
	r.reserve(0, f.Reference(pool).Kind+"/"+pool, ip, "--yes")
}

// What somebody reserves after a migration is not handed out by the old pool when machines go
// back there: it has to be reserved there first, which it can be although that pool is closed.
func TestWhatIsReservedStaysSoWhenMachinesGoBack(t *testing.T) {
	t.Parallel()
	betweenProviders(t, func(t *testing.T, from, to harness.Fixture) {
		r := newRelocation(t, shared, from, to, 1)
		r.finishes()
		ip := from.IP(93)
		r.reserves(to, "new-pool", ip)
		r.m.From, r.m.To = r.m.To, r.m.From

		if err := r.m.Run(r.Context()); err == nil || !strings.Contains(err.Error(), ip+" is reserved in") {
			t.Fatalf("got %v, want to be told that %s is reserved", err, ip)
		}
		r.reserves(from, from.PoolName, ip)
		r.finishes()

		for i := range 4 {
			name := fmt.Sprintf("n-%d", i)
			r.create(r.asks(from, name))
			if r.ip(name) == ip {
				t.Errorf("the old pool has handed out %s", ip)
			}
		}
		r.refused(r.asks(from, "late"), "exhausted")
	})
}

// Somebody's own claim stays in the old pool. The new one keeps its address until somebody has
// reserved it there.
func TestMigrationEndsAlthoughSomethingStays(t *testing.T) {
	t.Parallel()
	betweenProviders(t, func(t *testing.T, from, to harness.Fixture) {
		r := newRelocation(t, shared, from, to, 1)
		_, address := r.somebodys(from)
		ip := harness.ProviderOf(address).ReadAddress(address).IP
		takesPart := func() bool {
			pool := to.Pool(r.ns, harness.WithPoolName("new-pool"))
			if err := r.env.Client.Get(r.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
				r.Fatal(err)
			}
			return pool.GetAnnotations()[migration.WithAnnotation] != ""
		}
		run := func() {
			if err := r.m.Run(r.Context()); err != nil {
				r.Fatal(err)
			}
		}

		run()
		if !takesPart() {
			t.Errorf("the new pool does not keep %s", ip)
		}
		r.reserves(to, "new-pool", ip)
		run()
		if takesPart() {
			t.Error("the new pool still takes part in the migration")
		}
	})
}
