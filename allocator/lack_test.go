package allocator

import (
	"errors"
	"fmt"
	"maps"
	"testing"
)

func reference(name string) PoolReference {
	return PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: name}
}

func TestLacksAreReadAsTheyWereWritten(t *testing.T) {
	for name, test := range map[string]struct {
		annotation string
		want       Lacks
		again      string
	}{
		"nothing":    {"", Lacks{}, ""},
		"one pool":   {"IPPool.ipam.metal3.io/a", Lacks{reference("a"): 1}, "IPPool.ipam.metal3.io/a"},
		"two needed": {"IPPool.ipam.metal3.io/a:2", Lacks{reference("a"): 2}, "IPPool.ipam.metal3.io/a:2"},
		"two pools": {"IPPool.ipam.metal3.io/b.c:3,IPPool.ipam.metal3.io/a", Lacks{reference("a"): 1, reference("b.c"): 3},
			"IPPool.ipam.metal3.io/a,IPPool.ipam.metal3.io/b.c:3"},
		"written by hand": {" IPPool.ipam.metal3.io/a:1 ,", Lacks{reference("a"): 1}, "IPPool.ipam.metal3.io/a"},
		"garbage":         {"a,IPPool/a,.b/c,IPPool.ipam.metal3.io/,IPPool.ipam.metal3.io/a:x,IPPool.ipam.metal3.io/a:0,:", Lacks{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ParseLacks(test.annotation)
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
func TestLacksOfOneOwnerConverge(t *testing.T) {
	lacks := Lacks{}
	turns := []Lack{{reference("a"), 2}, {reference("b"), 1}, {reference("a"), 1}}
	for _, lack := range turns {
		lacks.Add(lack)
	}
	want := lacks.String()
	if want != "IPPool.ipam.metal3.io/a,IPPool.ipam.metal3.io/b" {
		t.Errorf("got %q", want)
	}
	for range 3 {
		for _, lack := range turns {
			lacks.Add(lack)
			if got := lacks.String(); got != want {
				t.Fatalf("it changed to %q", got)
			}
		}
	}
}

func TestOnlyARefusalLacksSomething(t *testing.T) {
	lack := Lack{reference("a"), 1}
	refusal, ok := AsRefusal(lacking(fmt.Errorf("wrapped: %w", Refuse(PoolNotFound, "no")), lack))
	if !ok || refusal.Lack != lack {
		t.Errorf("got %+v", refusal)
	}
	failure := errors.New("broken")
	if err := lacking(failure, lack); !errors.Is(err, failure) {
		t.Errorf("got %v, want it as it was", err)
	}
}
