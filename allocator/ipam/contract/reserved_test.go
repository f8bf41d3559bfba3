package contract

import (
	"net/netip"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestAddressesAreWithheldAndReturnedByExclusion(t *testing.T) {
	pool := unstructuredPool(inClusterVersion.WithKind(InClusterKind))
	pool.Object["spec"] = map[string]any{"addresses": []any{"10.0.0.1-10.0.0.9"}, "excludedAddresses": []any{"10.0.0.9"}, "prefix": int64(24)}
	excluded := func() []string {
		texts, _, _ := unstructured.NestedStringSlice(pool.Object, "spec", "excludedAddresses")
		return texts
	}
	for _, text := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.2"} {
		if err := (Provider{}).Withhold(pool, netip.MustParseAddr(text)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := excluded(), []string{"10.0.0.9", "10.0.0.2", "10.0.0.3"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, reserved, _ := (Provider{}).Ranges(pool); !reserved.Contains(netip.MustParseAddr("10.0.0.3")) {
		t.Error("it does not count as reserved")
	}
	for _, text := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4"} {
		if err := (Provider{}).Return(pool, netip.MustParseAddr(text)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := excluded(), []string{"10.0.0.9"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want what others have excluded: %v", got, want)
	}
}

func TestPoolsOfOthersAreNotTouched(t *testing.T) {
	pool := unstructuredPool(schema.GroupVersionKind{Group: "ipam.example.com", Version: "v1", Kind: "Pool"})
	if err := (Provider{}).Withhold(pool, netip.MustParseAddr("10.0.0.2")); err == nil {
		t.Error("it took a pool of another provider for its own")
	}
}
