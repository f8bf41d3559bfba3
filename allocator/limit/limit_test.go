package limit

import (
	"strconv"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// allowed is how many of so many things a namespace may do now.
func allowed(p *PerNamespace, namespace string, now time.Time, of int) (n int) {
	for range of {
		if p.Allow(namespace, now) {
			n++
		}
	}
	return n
}

func TestNamespaceThatAsksForMoreTakesNothingFromOthers(t *testing.T) {
	p := NewPerNamespace(2, 5)
	if got := allowed(p, "greedy", start, 100); got != 5 {
		t.Errorf("allowed %d at once, want the burst of 5", got)
	}
	if got := allowed(p, "other", start, 1); got != 1 {
		t.Error("another namespace is not allowed anything")
	}
	if got := allowed(p, "greedy", start.Add(time.Second), 100); got != 2 {
		t.Errorf("allowed %d a second later, want 2", got)
	}
}

func TestNamespacesThatAreRememberedAreBounded(t *testing.T) {
	p := NewPerNamespace(1, 5)
	together := 0
	for i := range 2 * maxNamespaces {
		together += allowed(p, strconv.Itoa(i), start, 1)
	}
	if len(p.limiters) != maxNamespaces || together != maxNamespaces+5 {
		t.Errorf("%d are remembered and %d were allowed, want %d, and 5 beyond", len(p.limiters), together, maxNamespaces)
	}
	later := start.Add(time.Minute)
	if got := allowed(p, "new", later, 9); got != 5 || len(p.limiters) != 1 {
		t.Errorf("allowed %d a minute later and remembers %d, want 5 of the only one", got, len(p.limiters))
	}
}
