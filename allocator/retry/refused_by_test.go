package retry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"capv-static-ip.dev/allocator/ipam"
)

func reference(name string) ipam.PoolReference {
	return ipam.PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: name}
}

func shortageOf(name string) Obstacle { return Obstacle{Pool: reference(name)} }

func TestShortagesAreReadAsTheyWereWritten(t *testing.T) {
	for name, test := range map[string]struct {
		annotation string
		want       Shortages
		again      string
	}{
		"nothing":    {"", Shortages{}, ""},
		"one pool":   {"IPPool.ipam.metal3.io/a", Shortages{shortageOf("a"): 1}, "IPPool.ipam.metal3.io/a"},
		"two needed": {"IPPool.ipam.metal3.io/a:2", Shortages{shortageOf("a"): 2}, "IPPool.ipam.metal3.io/a:2"},
		"two pools": {"IPPool.ipam.metal3.io/b.c:3,IPPool.ipam.metal3.io/a", Shortages{shortageOf("a"): 1, shortageOf("b.c"): 3},
			"IPPool.ipam.metal3.io/a,IPPool.ipam.metal3.io/b.c:3"},
		"written by hand": {" IPPool.ipam.metal3.io/a:1 ,", Shortages{shortageOf("a"): 1}, "IPPool.ipam.metal3.io/a"},
		"a reason":        {"AddressInUse", Shortages{Obstacle{Reason: ipam.AddressInUse}: 1}, "AddressInUse"},
		"a reason beside a pool": {"IPPool.ipam.metal3.io/a:2,NotBoundInTime", Shortages{shortageOf("a"): 2, Obstacle{Reason: ipam.NotBoundInTime}: 1},
			"IPPool.ipam.metal3.io/a:2,NotBoundInTime"},
		"names that are none":     {"IPPool.ipam.metal3.io/A,IPPool.ipam..io/a,IPPool.ipam.metal3.io/..,IPPool.ipam.metal3.io/a/b", Shortages{}, ""},
		"names that are too long": {"IPPool.ipam.metal3.io/" + strings.Repeat("a", 254) + "," + strings.Repeat("A", 64), Shortages{}, ""},
		"garbage":                 {"a,IPPool/a,.b/c,IPPool.ipam.metal3.io/,IPPool.ipam.metal3.io/a:x,IPPool.ipam.metal3.io/a:0,:", Shortages{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ParseShortages(test.annotation)
			if !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if again := got.String(); again != test.again {
				t.Errorf("written as %q, want %q", again, test.again)
			}
		})
	}
}

// However refusals come in turn, what is written comes to an end.
func TestShortagesOfOneOwnerConverge(t *testing.T) {
	shortages := Shortages{}
	refused := []ipam.Shortage{{Pool: reference("a"), Needed: 2}, {Pool: reference("b"), Needed: 1}, {Pool: reference("a"), Needed: 1}}
	for _, short := range refused {
		shortages.Add(Obstacle{Pool: short.Pool}, short.Needed)
	}
	want := shortages.String()
	if want != "IPPool.ipam.metal3.io/a,IPPool.ipam.metal3.io/b" {
		t.Errorf("got %q", want)
	}
	for range 3 {
		for _, short := range refused {
			shortages.Add(Obstacle{Pool: short.Pool}, short.Needed)
			if got := shortages.String(); got != want {
				t.Fatalf("it changed to %q", got)
			}
		}
	}
}

// Whoever may write an owner can write anything there.
func TestShortagesThatAreReadAreBounded(t *testing.T) {
	var entries []string
	for i := range 5000 {
		entries = append(entries, fmt.Sprintf("Kind%d.example.org/a", i))
	}
	if got := ParseShortages(strings.Join(entries, ",")); len(got) != maxShortages {
		t.Errorf("got %d, want %d", len(got), maxShortages)
	}
}

func TestShortageThatFindsNoRoomIsWaitedFor(t *testing.T) {
	shortages := Shortages{}
	for i := range maxShortages {
		shortages.Add(shortageOf(fmt.Sprint(i)), 1)
	}
	shortages.Add(shortageOf("last"), 1)
	if got := shortages.String(); got != "IPPool.ipam.metal3.io/last" {
		t.Errorf("got %q, want the last", got)
	}
}

func TestRefusalThatNamesNoPoolIsCausedByItsReason(t *testing.T) {
	refusal, _ := ipam.AsRefusal(ipam.Refuse(ipam.AddressInUse, "no"))
	if got, want := ShortagesOf(refusal), (Shortages{{Reason: ipam.AddressInUse}: 1}); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	refusal.Shortages = []ipam.Shortage{{Pool: reference("a"), Needed: 2}, {Pool: reference("b")}}
	if got, want := ShortagesOf(refusal), (Shortages{shortageOf("a"): 2, shortageOf("b"): 1}); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOnlyARefusalIsShortOfSomething(t *testing.T) {
	short := ipam.Shortage{Pool: reference("a"), Needed: 1}
	refusal, ok := ipam.AsRefusal(ipam.WithShortages(fmt.Errorf("wrapped: %w", ipam.Refuse(ipam.PoolNotFound, "no")), short))
	if !ok || !slices.Equal(refusal.Shortages, []ipam.Shortage{short}) {
		t.Errorf("got %+v", refusal)
	}
	failure := errors.New("broken")
	if err := ipam.WithShortages(failure, short); !errors.Is(err, failure) {
		t.Errorf("got %v, want it as it was", err)
	}
}
