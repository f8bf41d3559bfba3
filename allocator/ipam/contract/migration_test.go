package contract

import (
	"net/netip"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

func TestShapesOfAPoolThatAddressesAreMovedFromOrTo(t *testing.T) {
	ips := func(texts ...string) []netip.Addr {
		var all []netip.Addr
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	freeze := func(pool client.Object) error { return Provider{}.Freeze(pool, nil) }
	closed := func(used ...string) func(client.Object) error {
		return func(pool client.Object) error { return Provider{}.Close(pool, ips(used...)) }
	}
	thaw := func(kept ...string) func(client.Object) error {
		return func(pool client.Object) error { return Provider{}.Thaw(pool, ips(kept...)) }
	}
	reserve := func(texts ...string) func(client.Object) error {
		return func(pool client.Object) error {
			kept := map[string]netip.Addr{}
			for _, text := range texts {
				kept["for-"+text] = netip.MustParseAddr(text)
			}
			return Provider{}.Reserve(pool, kept)
		}
	}
	edit := func(excluded ...string) func(client.Object) error {
		return func(pool client.Object) error {
			return unstructured.SetNestedStringSlice(pool.(*unstructured.Unstructured).Object, excluded, "spec", "excludedAddresses")
		}
	}
	for name, test := range map[string]struct {
		steps         []func(client.Object) error
		excluded      string
		paused, plain bool
	}{
		"frozen":                   {[]func(client.Object) error{freeze}, "10.0.0.9", true, false},
		"frozen again":             {[]func(client.Object) error{freeze, freeze}, "10.0.0.9", true, false},
		"closed":                   {[]func(client.Object) error{freeze, closed()}, "10.0.0.9 10.0.0.1-10.0.0.9", false, false},
		"closed, some are left":    {[]func(client.Object) error{freeze, closed("10.0.0.2", "10.0.0.4")}, "10.0.0.9 10.0.0.1 10.0.0.3 10.0.0.5-10.0.0.9", false, false},
		"thawed":                   {[]func(client.Object) error{freeze, thaw()}, "10.0.0.9", false, true},
		"thawed, one has moved":    {[]func(client.Object) error{freeze, thaw("10.0.0.1")}, "10.0.0.9 10.0.0.1", false, false},
		"reserved":                 {[]func(client.Object) error{reserve("10.0.0.2", "10.0.0.1")}, "10.0.0.9 10.0.0.1 10.0.0.2", false, false},
		"reserved less":            {[]func(client.Object) error{reserve("10.0.0.2", "10.0.0.1"), reserve("10.0.0.1")}, "10.0.0.9 10.0.0.1", false, false},
		"reserved for nobody more": {[]func(client.Object) error{reserve("10.0.0.2"), reserve()}, "10.0.0.9", false, true},
		"reserved, others exclude": {[]func(client.Object) error{reserve("10.0.0.1"), edit("10.0.0.9", "10.0.0.1", "10.0.0.5"), reserve("10.0.0.2")}, "10.0.0.9 10.0.0.5 10.0.0.2", false, false},
		"closed, others exclude":   {[]func(client.Object) error{closed("10.0.0.1"), edit("10.0.0.9", "10.0.0.2-10.0.0.9", "10.0.0.1"), thaw()}, "10.0.0.9 10.0.0.1", false, true},
		"frozen, others exclude":   {[]func(client.Object) error{freeze, edit("10.0.0.9", "10.0.0.5"), thaw()}, "10.0.0.9 10.0.0.5", false, true},
		"reserved, others undo it": {[]func(client.Object) error{reserve("10.0.0.1"), edit("10.0.0.9"), reserve("10.0.0.2")}, "10.0.0.9 10.0.0.2", false, false},
		"moved back to":            {[]func(client.Object) error{freeze, closed(), reserve("10.0.0.1")}, "10.0.0.9 10.0.0.1", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			pool := unstructuredPool(inClusterVersion.WithKind(InClusterKind))
			pool.Object["spec"] = map[string]any{"addresses": []any{"10.0.0.1-10.0.0.9"}, "excludedAddresses": []any{"10.0.0.9"}, "prefix": int64(24)}
			for _, step := range test.steps {
				if err := step(pool); err != nil {
					t.Fatal(err)
				}
			}
			excluded, _, _ := unstructured.NestedStringSlice(pool.Object, "spec", "excludedAddresses")
			if got := strings.Join(excluded, " "); got != test.excluded || annotations.HasPaused(pool) != test.paused {
				t.Errorf("it excludes %s, and is paused: %v; want %s and %v", got, annotations.HasPaused(pool), test.excluded, test.paused)
			}
			if _, noted := pool.GetAnnotations()[ipam.PoolMigrationAnnotation]; noted == test.plain {
				t.Errorf("what it was before is noted: %v", noted)
			}
		})
	}
}

func TestPoolOfAnotherProviderIsNotShaped(t *testing.T) {
	pool := unstructuredPool(inClusterVersion.WithKind("InfobloxIPPool"))
	if err := (Provider{}).Freeze(pool, nil); err == nil {
		t.Error("it is frozen, want an error")
	}
}

func TestProviderHasNotedAPoolWhenItHasCountedIt(t *testing.T) {
	pool := unstructuredPool(inClusterVersion.WithKind(InClusterKind))
	pool.Object["spec"] = map[string]any{"addresses": []any{"10.0.0.1-10.0.0.9"}, "prefix": int64(24)}
	pool.Object["status"] = map[string]any{"ipAddresses": map[string]any{"total": int64(9)}}
	if !(Provider{}).HasNoted(pool) {
		t.Error("it has not, want that it has")
	}
	if err := (Provider{}).Reserve(pool, map[string]netip.Addr{"cp-0": netip.MustParseAddr("10.0.0.1")}); err != nil {
		t.Fatal(err)
	}
	if (Provider{}).HasNoted(pool) {
		t.Error("it has, want that it has not")
	}
}
