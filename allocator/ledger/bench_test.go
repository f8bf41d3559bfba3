package ledger_test

import (
	"fmt"
	"net/netip"
	"testing"

	metal3v1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// few and many are the addresses of a pool. What a create asks of it must take as long with
// the one as with the other.
const few, many = 10, 10_000

// filled is a world with an IPPool of so many addresses, of which so many are used.
func filled(t testing.TB, size, used int) *world {
	w := newWorld(t)
	w.begin(all)
	first := netip.MustParseAddr("10.0.0.1")
	last := first
	for n := range size {
		if n < used {
			w.add(own("pool", last.String()))
		}
		if n < size-1 {
			last = last.Next()
		}
	}
	pool := metal3Pool("ns", "pool")
	pool.Spec.PreAllocations = nil
	start, end := metal3v1.IPAddressStr(first.String()), metal3v1.IPAddressStr(last.String())
	pool.Spec.Pools = []metal3v1.Pool{{Start: &start, End: &end}}
	w.pools = []client.Object{pool}
	return w
}

// ask asks of the pool what a create asks: how many are left, and whether one can be had.
func (w *world) ask(t testing.TB, reader client.Reader, claims []string) uint64 {
	pool, err := aProvider.Pool(t.Context(), reader, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "m"}}, ipam.Want{Pool: aPool})
	if err != nil {
		t.Fatal(err)
	}
	free, _ := pool.Free(claims)
	pool.Offers(addr("10.0.0.3"), "m-0")
	return free
}

// It cannot be measured reliably how long it takes; but what is listed, or copied, is
// allocated.
func TestAPoolWithManyAddressesTakesNoMoreThanOneWithFew(t *testing.T) {
	// More than any pool has: for fewer it may do to know that they are enough.
	claims := make([]string, many+1)
	allocations := func(used int) float64 {
		w := filled(t, many, used)
		reader := w.ledger.Client(w)
		if free := w.ask(t, reader, claims); free != uint64(many-used) {
			t.Fatalf("%d are free of %d, want %d", free, many, many-used)
		}
		return testing.AllocsPerRun(100, func() { w.ask(t, reader, claims) })
	}
	if full, empty := allocations(many-1), allocations(few); full != empty {
		t.Errorf("%v allocations with %d addresses, and %v with %d", full, many-1, empty, few)
	}
}

// A pool with room, as most are; and a full one, in which every address has to be counted.
func BenchmarkPool(b *testing.B) {
	for _, used := range []int{few, many} {
		benchmark(b, fmt.Sprintf("room-%d", used), filled(b, 2*many, used))
	}
	for _, used := range []int{few, many} {
		benchmark(b, fmt.Sprintf("full-%d", used), filled(b, used+1, used))
	}
}

func benchmark(b *testing.B, name string, w *world) {
	claims := []string{"m-0", "m-1"}
	for way, reader := range map[string]client.Reader{"counted": w.ledger.Client(w), "listed": w} {
		b.Run(name+"-"+way, func(b *testing.B) {
			for b.Loop() {
				w.ask(b, reader, claims)
			}
		})
	}
}

// What an address costs when it comes and goes.
func BenchmarkEvent(b *testing.B) {
	for _, count := range []int{few, many} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			w := filled(b, count, count)
			address := own("pool", "10.0.0.0")
			for b.Loop() {
				w.add(address)
				w.remove(address)
			}
		})
	}
}
