package contract

import (
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
)

func poolOf(gateway string, addresses ...any) ipam.Pool {
	spec := map[string]any{"addresses": addresses}
	if gateway != "" {
		spec["gateway"] = gateway
	}
	return ipam.Pool{Object: &unstructured.Unstructured{Object: map[string]any{"spec": spec}}, Reference: InClusterPool("p")}
}

func TestFamilyOfAPool(t *testing.T) {
	for name, test := range map[string]struct {
		pool ipam.Pool
		want ipam.Family
	}{
		"that of its gateway":                  {poolOf("fd00::1", "10.0.0.1-10.0.0.9", "fd00::2-fd00::9"), ipam.IPv6},
		"that of its first range":              {poolOf("", "10.0.0.1-10.0.0.9", "fd00::2-fd00::9"), ipam.IPv4},
		"that of its first network":            {poolOf("", "fd00::/64", "10.0.0.1"), ipam.IPv6},
		"that of its first address":            {poolOf("", "10.0.0.1", "fd00::/64"), ipam.IPv4},
		"unknown, of a kind that says nothing": {ipam.Pool{Object: &unstructured.Unstructured{}}, ""},
		"unknown, of what is no address":       {poolOf("", "lab"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := familyOf(test.pool); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// The provider hands out what is left, of whatever family.
func TestAddressOfAPoolsSecondFamilyIsRefused(t *testing.T) {
	pool := poolOf("", "10.0.0.1-10.0.0.2", "fd00::1-fd00::9")
	for ip, refused := range map[string]bool{"10.0.0.1": false, "fd00::1": true} {
		address := &ipamv1.IPAddress{Spec: ipamv1.IPAddressSpec{Address: ip, Prefix: new(int32(24))}}

		_, err := Provider{}.Bind(pool, Provider{}.ReadAddress(address), ipam.Want{Pool: pool.Reference})

		refusal, ok := ipam.AsRefusal(err)
		if ok != refused || refused && refusal.Reason != ipam.PoolExhausted {
			t.Errorf("%s: got error %v, want it refused: %v", ip, err, refused)
		}
		// It is not set aside: there may be a network full of them.
		if unfit := (*ipam.Unfit)(nil); errors.As(err, &unfit) {
			t.Errorf("%s: it is to be set aside", ip)
		}
	}
}
