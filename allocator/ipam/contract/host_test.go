package contract

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capv-static-ip.dev/allocator/ipam"
)

func TestHostOfAClaim(t *testing.T) {
	zoned := func(zone any) ipam.Pool {
		return ipam.Pool{Object: &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"dnsZone": zone}}}}
	}
	machine := ipam.Machine{}
	machine.Name = "cp"
	for name, test := range map[string]struct {
		host string
		pool ipam.Pool
		want string
	}{
		"no zone":                      {"cp", ipam.Pool{Object: &unstructured.Unstructured{}}, "cp"},
		"no host of its own":           {"", zoned("example.org"), "cp.example.org"},
		"a zone":                       {"cp-1", zoned("example.org"), "cp-1.example.org"},
		"a zone with its dot":          {"cp-1", zoned("example.org."), "cp-1.example.org"},
		"a host in the zone":           {"cp.example.org", zoned("example.org"), "cp.example.org"},
		"a zone that the host ends in": {"cpexample.org", zoned("example.org"), "cpexample.org.example.org"},
		"a field of another meaning":   {"cp", zoned(map[string]any{}), "cp"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := Provider{}.NewClaim(ipam.ClaimSpec{Name: "cp-0", Machine: machine, Pool: InClusterPool("p"), Host: test.host, PoolObject: test.pool.Object})
			if got := claim.GetAnnotations()[hostnameAnnotation]; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
