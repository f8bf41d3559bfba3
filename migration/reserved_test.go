package migration

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/reservation"
)

// reserves has a pool give an address to nobody, as kubectl static-ip reserve does, and returns
// what stands in the way of that.
func (w *world) reserves(key inventory.PoolKey, ip string) (obstacle string) {
	w.t.Helper()
	w.left = 1000
	graph, err := w.source().Read(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	items := reservation.Plan(graph, []reservation.Wanted{{Pool: key, Address: netip.MustParseAddr(ip)}})
	if items[0].Obstacle != "" {
		return items[0].Obstacle
	}
	r := &reservation.Reservation{Client: w, Providers: w.source().Providers, Timeout: time.Second, Settle: time.Millisecond, Report: w.t.Logf}
	if err := r.Run(w.t.Context(), items); err != nil {
		w.t.Fatal(err)
	}
	return ""
}

// pool is a pool as it is stored.
func (w *world) pool(key inventory.PoolKey) client.Object {
	w.t.Helper()
	w.left = 1000
	pool, err := w.migration(key, key, 1000).pool(key).Read(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return pool
}

// withholds tells whether a pool hands an address out to nobody, also when no migration is left.
func (w *world) withholds(key inventory.PoolKey, ip string) bool {
	w.t.Helper()
	provider := w.source().Providers.For(key.PoolReference)
	plain, err := ipam.WithoutMigration(provider, w.pool(key))
	if err != nil {
		w.t.Fatal(err)
	}
	_, reserved, _ := ipam.Ranges(provider, plain)
	return reserved.Contains(netip.MustParseAddr(ip))
}

func TestWhatIsReservedStaysSoOnTheWayBack(t *testing.T) {
	for name, d := range directions() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, d[0])
			if err := w.migration(d[0], d[1], 1000).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if why := w.reserves(d[1], "10.0.0.5"); why != "" {
				t.Fatalf("it cannot be reserved in the new pool: %s", why)
			}
			before := w.pool(d[1])

			err := w.migration(d[1], d[0], 1000).Run(t.Context())

			if err == nil || !strings.Contains(err.Error(), "10.0.0.5 is reserved in") {
				t.Errorf("got %v, want to be told that it is reserved", err)
			}
			if after := w.pool(d[1]); after.GetResourceVersion() != before.GetResourceVersion() {
				t.Errorf("the pool was changed all the same: %v", after)
			}
			if why := w.reserves(d[0], "10.0.0.5"); why != "" {
				t.Fatalf("it cannot be reserved where it is to be: %s", why)
			}
			if err := w.migration(d[1], d[0], 1000).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if pool, _ := w.holds("cp"); pool != d[0].Name || !w.withholds(d[0], "10.0.0.5") {
				t.Errorf("the machine is held by %s, which withholds 10.0.0.5: %v", pool, w.withholds(d[0], "10.0.0.5"))
			}
		})
	}
}

func TestWhatIsReservedMeanwhileKeepsNobodyFromUndoing(t *testing.T) {
	for name, d := range directions() {
		t.Run(name, func(t *testing.T) {
			// It is killed when the old pool is frozen and the machine is half way.
			w := newWorld(t, d[0])
			if err := w.migration(d[0], d[1], 5).Run(t.Context()); err == nil {
				t.Fatal("it came to its end")
			}
			if why := w.reserves(d[0], "10.0.0.5"); why != "" {
				t.Fatalf("it cannot be reserved in the old pool: %s", why)
			}
			if err := w.migration(d[0], d[1], 1000).Run(t.Context()); err == nil {
				t.Error("it goes on, want to be told that 10.0.0.5 is reserved")
			}

			if err := w.migration(d[0], d[1], 1000).Abort(t.Context()); err != nil {
				t.Fatal(err)
			}

			if pool, addresses := w.holds("cp"); pool != d[0].Name || addresses != 1 || !w.withholds(d[0], "10.0.0.5") {
				t.Errorf("the machine is held by %s, %d addresses exist, and 10.0.0.5 is withheld: %v", pool, addresses, w.withholds(d[0], "10.0.0.5"))
			}
		})
	}
}

// endpoint is an address of IPPool a that no machine has, and that stays there.
func (w *world) endpoint(ip string) {
	w.t.Helper()
	address := &ipamv1.IPAddress{ObjectMeta: named("a-endpoint")}
	address.Spec.Address, address.Spec.Claim.Name, address.Spec.Pool.Name = ipamv1.IPAddressStr(ip), "prod", "a"
	w.must(w.Client.Create(w.t.Context(), address))
}

func TestMigrationIsOverWhenWhatStaysIsReserved(t *testing.T) {
	for _, name := range []string{"metal3 to in-cluster", "metal3 to metal3"} {
		t.Run(name, func(t *testing.T) {
			d := directions()[name]
			w := newWorld(t, d[0])
			w.endpoint("10.0.0.8")
			m := w.migration(d[0], d[1], 1000)
			if err := m.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if with := w.pool(d[1]).GetAnnotations()[WithAnnotation]; with != d[0].String() {
				t.Fatalf("the new pool takes part in a migration with %q, want that it keeps 10.0.0.8 for %s", with, d[0])
			}
			for _, ip := range []string{"10.0.0.5", "10.0.0.8"} {
				if why := w.reserves(d[1], ip); why != "" {
					t.Errorf("%s cannot be reserved in the new pool: %s", ip, why)
				}
			}

			if err := w.migration(d[0], d[1], 1000).Run(t.Context()); err != nil {
				t.Fatal(err)
			}

			if with, takesPart := w.pool(d[1]).GetAnnotations()[WithAnnotation]; takesPart {
				t.Errorf("the new pool still takes part in a migration with %s", with)
			}
			if !w.withholds(d[1], "10.0.0.5") || !w.withholds(d[1], "10.0.0.8") {
				t.Error("it hands out what was reserved")
			}
		})
	}
}

// An address of a machine that is to be moved has to be in what the new pool can hand out.
func TestAddressThatIsToBeMovedCannotBeReserved(t *testing.T) {
	d := directions()["metal3 to in-cluster"]
	w := newWorld(t, d[0])
	if err := w.migration(d[0], d[1], 3).Run(t.Context()); err == nil {
		t.Fatal("it came to its end")
	}

	if why := w.reserves(d[1], "10.0.0.1"); !strings.Contains(why, "is held in ns/IPPool/a, and moved") {
		t.Errorf("what stands in the way is %q, want that the machine has it", why)
	}
}

// A machine that is deleted half way has its address of both pools until it is gone.
func TestUndoingWithAMachineThatIsDeletedHalfWayThawsTheOldPool(t *testing.T) {
	d := directions()["in-cluster to metal3"]
	w := newWorld(t, d[0])
	if err := w.migration(d[0], d[1], 5).Run(t.Context()); err == nil {
		t.Fatal("it came to its end")
	}
	stored := &capi.VSphereMachine{}
	w.must(w.Client.Get(t.Context(), types.NamespacedName{Namespace: "ns", Name: "cp"}, stored))
	controllerutil.AddFinalizer(stored, "example.com/vm")
	w.must(w.Update(t.Context(), stored))
	w.must(w.Client.Delete(t.Context(), stored))

	if err := w.migration(d[0], d[1], 1000).Abort(t.Context()); err != nil {
		t.Fatal(err)
	}

	pool := w.pool(d[0]).(*unstructured.Unstructured)
	excluded, _, _ := unstructured.NestedStringSlice(pool.Object, "spec", "excludedAddresses")
	if slices.Contains(excluded, "10.0.0.1") {
		t.Errorf("the old pool excludes %v, one of which it has given to the machine: its provider refuses that", excluded)
	}
}

func TestMachinesOfOneNameInTwoNamespacesKeepBothAddresses(t *testing.T) {
	s := newScene()
	m := s.migration(t)
	m.From.Namespace, m.To.Namespace = "", ""
	m.From.PoolReference = metal3.PoolNamed("a")
	p := &Plan{}
	for namespace, ip := range map[string]string{"ns": "10.0.0.1", "other": "10.0.0.2"} {
		move := theMove()
		move.Address = netip.MustParseAddr(ip)
		p.Machines = append(p.Machines, Machine{Key: types.NamespacedName{Namespace: namespace, Name: "cp"}, State: Ready, Moves: []ipam.Move{move}})
	}
	second := s.address.DeepCopy()
	second.Name, second.ResourceVersion, second.Spec.Address = "a-10-0-0-2", "", "10.0.0.2"
	if err := m.Client.Create(t.Context(), second); err != nil {
		t.Fatal(err)
	}

	kept, err := m.kept(t.Context(), p)

	if err != nil || len(kept) != 2 {
		t.Errorf("got %v and error %v, want both addresses kept", kept, err)
	}
}
