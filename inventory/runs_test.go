package inventory

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
)

func inWords(runs []Run) []string {
	var all []string
	for _, r := range runs {
		all = append(all, fmt.Sprintf("%s-%s: %s %s", r.First, r.Last, r.Number, r.State))
	}
	return all
}

func TestRunsFoldWhatNobodyHas(t *testing.T) {
	pool := &Pool{Provider: contract.Provider{}, Object: inClusterPool(map[string]any{
		"addresses": []any{"10.0.0.0/28"}, "prefix": int64(28), "gateway": "10.0.0.1", "excludedAddresses": []any{"10.0.0.7-10.0.0.8"},
	}), Addresses: holding("10.0.0.4", "~10.0.0.3", "10.0.0.8")}
	want := []string{
		"10.0.0.0-10.0.0.1: 2 reserved", "10.0.0.2-10.0.0.2: 1 free", "10.0.0.3-10.0.0.3: 1 cooling", "10.0.0.4-10.0.0.4: 1 used",
		"10.0.0.5-10.0.0.6: 2 free", "10.0.0.7-10.0.0.7: 1 reserved", "10.0.0.8-10.0.0.8: 1 used", "10.0.0.9-10.0.0.14: 6 free",
		"10.0.0.15-10.0.0.15: 1 reserved",
	}
	if got := inWords((&Graph{}).Runs(pool)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRunsOfAPoolThatDoesNotSayItsSizeAreThoseInUse(t *testing.T) {
	got := inWords((&Graph{}).Runs(&Pool{Provider: contract.Provider{}, Addresses: holding("10.0.0.4")}))
	if want := []string{"10.0.0.4-10.0.0.4: 1 used"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRunIsSplitAtAnAddress(t *testing.T) {
	run := (&Graph{}).Runs(&Pool{Provider: contract.Provider{}, Object: inClusterPool(map[string]any{"addresses": []any{"10.0.0.2-10.0.0.5"}, "prefix": int64(24)})})[0]
	for at, want := range map[string][]string{
		"10.0.0.2": {"10.0.0.2-10.0.0.2: 1 free", "10.0.0.3-10.0.0.5: 3 free"},
		"10.0.0.4": {"10.0.0.2-10.0.0.3: 2 free", "10.0.0.4-10.0.0.4: 1 free", "10.0.0.5-10.0.0.5: 1 free"},
		"10.0.0.5": {"10.0.0.2-10.0.0.4: 3 free", "10.0.0.5-10.0.0.5: 1 free"},
	} {
		if got := inWords(run.SplitAt(netip.MustParseAddr(at))); !slices.Equal(got, want) {
			t.Errorf("at %s it becomes %q, want %q", at, got, want)
		}
	}
}

func TestObjectIsSightedOnceForAnAddress(t *testing.T) {
	m := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "twice"}}
	m.Spec.Network.Devices = []capi.Device{{IPAddrs: []string{"10.0.0.4/24"}}, {IPAddrs: []string{"10.0.0.4/24", "10.0.0.5/24"}}}
	g := &Graph{Machines: []*Machine{{VSphereMachine: m, Bindings: []ipam.Binding{{Address: netip.MustParsePrefix("10.0.0.5/24")}}}}}
	if a, b := g.Sightings(parse("10.0.0.4")), g.Sightings(parse("10.0.0.5")); len(a) != 1 || a[0].Held || len(b) != 1 || !b[0].Held {
		t.Errorf("got %+v and %+v, want one of each, the second one held", a, b)
	}
}
