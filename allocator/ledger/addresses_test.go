package ledger

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"go4.org/netipx"
)

// at is the n-th address of a network that has room for all of a test.
func at(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// check compares the addresses with what they are to be: the objects of each.
func (a *addresses) check(t *testing.T, want map[netip.Addr]int) {
	t.Helper()
	if a.distinct != len(want) {
		t.Fatalf("got %d addresses, want %d", a.distinct, len(want))
	}
	var last netip.Addr
	seen := 0
	for _, chunk := range a.chunks {
		if len(chunk) == 0 || len(chunk) > maxChunk {
			t.Fatalf("a chunk has %d addresses", len(chunk))
		}
		for _, t2 := range chunk {
			if last.IsValid() && !last.Less(t2.ip) {
				t.Fatalf("%s stands before %s", last, t2.ip)
			}
			if want[t2.ip] != t2.objects {
				t.Fatalf("%s has %d objects, want %d", t2.ip, t2.objects, want[t2.ip])
			}
			last, seen = t2.ip, seen+1
		}
	}
	if seen != len(want) {
		t.Fatalf("got %d tallies, want %d", seen, len(want))
	}
}

func TestAddressesStayInOrderHoweverManyThereAre(t *testing.T) {
	for seed := range uint64(5) {
		random, a, want := rand.New(rand.NewPCG(seed, 0)), &addresses{}, map[netip.Addr]int{}
		for step := range 6000 {
			ip := at(random.IntN(3000))
			// It grows first, and then dwindles until nothing is left.
			if grows := random.IntN(6000) > step; grows || want[ip] == 0 {
				if grows {
					a.add(ip, false, 1)
					want[ip]++
				}
				continue
			}
			a.add(ip, false, -1)
			if want[ip]--; want[ip] == 0 {
				delete(want, ip)
			}
			if step%500 == 0 {
				a.check(t, want)
			}
		}
		a.check(t, want)
		for range 100 {
			first := random.IntN(3000)
			r := netipx.IPRangeFrom(at(first), at(first+random.IntN(3000-first)))
			var set netipx.IPSetBuilder
			set.AddRange(r)
			built, err := set.IPSet()
			if err != nil {
				t.Fatal(err)
			}
			in := 0
			for ip := range want {
				if r.Contains(ip) {
					in++
				}
			}
			if got := a.countIn(built); got != uint64(in) {
				t.Fatalf("%s has %d, want %d", r, got, in)
			}
		}
		for ip, objects := range want {
			a.add(ip, false, -objects)
		}
		a.check(t, map[netip.Addr]int{})
		if len(a.chunks) != 0 {
			t.Errorf("%d chunks are left of nothing", len(a.chunks))
		}
	}
}
