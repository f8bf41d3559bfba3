package allocator

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
)

func TestHostOfAClaim(t *testing.T) {
	zoned := func(zone any) Pool {
		return Pool{Object: &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"dnsZone": zone}}}}
	}
	machine := Machine{}
	machine.Name = "cp"
	for name, test := range map[string]struct {
		host string
		pool Pool
		want string
	}{
		"no zone":                      {"cp", Pool{Object: &unstructured.Unstructured{}}, "cp"},
		"no host of its own":           {"", zoned("example.org"), "cp.example.org"},
		"a zone":                       {"cp-1", zoned("example.org"), "cp-1.example.org"},
		"a zone with its dot":          {"cp-1", zoned("example.org."), "cp-1.example.org"},
		"a host in the zone":           {"cp.example.org", zoned("example.org"), "cp.example.org"},
		"a zone that the host ends in": {"cpexample.org", zoned("example.org"), "cpexample.org.example.org"},
		"a field of another meaning":   {"cp", zoned(map[string]any{}), "cp"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := Contract{}.NewClaim("cp-0", machine, InClusterPool("p"))
			nameHost(claim, Want{Host: test.host}, test.pool)
			if got := claim.GetAnnotations()[hostnameAnnotation]; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "cp-0"}}
	nameHost(claim, Want{Host: "cp"}, Pool{Object: &ipamv1.IPPool{}})
	if len(claim.Annotations) > 0 {
		t.Errorf("a claim of a provider that registers no host has %v", claim.Annotations)
	}
}
