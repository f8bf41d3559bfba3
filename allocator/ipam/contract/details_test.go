package contract

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"capv-static-ip.dev/allocator/ipam"
)

func TestNameServersThatTheInClusterProviderHandsOut(t *testing.T) {
	spec := func(fields map[string]any) map[string]any {
		fields["addresses"], fields["prefix"] = []any{"10.0.0.0/28"}, int64(28)
		return map[string]any{"spec": fields}
	}
	for name, test := range map[string]struct {
		kind    schema.GroupVersionKind
		fields  map[string]any
		servers string
		want    []string
	}{
		"in its ranges":        {inCluster, spec(map[string]any{}), "10.0.0.5", []string{"its name server 10.0.0.5"}},
		"outside of them":      {inCluster, spec(map[string]any{}), "10.0.0.53", nil},
		"left out":             {inCluster, spec(map[string]any{"excludedAddresses": []any{"10.0.0.5"}}), "10.0.0.5", nil},
		"its gateway":          {inCluster, spec(map[string]any{"gateway": "10.0.0.1"}), "10.0.0.1", nil},
		"nonsense":             {inCluster, spec(map[string]any{}), "dns", nil},
		"of another provider":  {rangeKind, spec(map[string]any{}), "10.0.0.5", nil},
		"of a pool of all":     {global, spec(map[string]any{}), "10.0.0.5, 10.0.0.6", []string{"its name server 10.0.0.5", "its name server 10.0.0.6"}},
		"of one without sense": {inCluster, map[string]any{"spec": map[string]any{"addresses": []any{"x"}}}, "10.0.0.5", nil},
	} {
		t.Run(name, func(t *testing.T) {
			pool := lab(test.kind, test.fields)
			pool.SetAnnotations(map[string]string{ipam.NameserversAnnotation: test.servers})
			var got []string
			for _, n := range ipam.DetailsOf(Provider{}, pool).Needed {
				got = append(got, n.What+" "+n.IP.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
