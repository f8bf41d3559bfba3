package main

import (
	"math/rand/v2"
	"testing"
)

func anyFault(fault) bool { return true }

func TestEachFaultComesBeforeAnyComesAgain(t *testing.T) {
	t.Parallel()
	for _, lane := range lanes() {
		by := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // it is to be repeated
		d, seen := newDeck(by, lane), map[string]bool{}
		for range lane {
			f, _ := d.next(by, anyFault)
			if seen[f.kind] {
				t.Errorf("%s comes again before others came", f.kind)
			}
			seen[f.kind] = true
		}
	}
}

func TestFaultsComeAsOftenAsTheirWeights(t *testing.T) {
	t.Parallel()
	by := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // it is to be repeated
	lane := programFaults()
	d, count, sum := newDeck(by, lane), map[string]int{}, 0
	for _, f := range lane {
		sum += f.weight
	}
	for range 3 * sum {
		f, _ := d.next(by, anyFault)
		count[f.kind]++
	}
	for _, f := range lane {
		if count[f.kind] != 3*f.weight {
			t.Errorf("%s comes %d times, want %d", f.kind, count[f.kind], 3*f.weight)
		}
	}
}

// What is not possible while something is moved comes afterwards.
func TestFaultThatIsNotPossibleStaysInTheDeck(t *testing.T) {
	t.Parallel()
	by := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // it is to be repeated
	apart, other := fault{kind: "apart", weight: 1, apart: true}, fault{kind: "other", weight: 1}
	d := newDeck(by, []fault{apart, other})

	first, _ := d.next(by, func(f fault) bool { return !f.apart })
	_, ok := d.next(by, func(f fault) bool { return !f.apart })
	last, _ := d.next(by, anyFault)

	if first.kind != "other" || ok || last.kind != "apart" {
		t.Errorf("got %q, then one: %t, then %q", first.kind, ok, last.kind)
	}
}
