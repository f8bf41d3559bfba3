package machine

import (
	"strings"
	"testing"

	"capv-static-ip.dev/allocator/ipam"
)

func TestPoolReference(t *testing.T) {
	tests := map[string]struct {
		text string
		want ipam.PoolReference
	}{
		"name":                       {"dkp", ipam.PoolReference{Name: "dkp"}},
		"metal3 kind":                {"IPPool/dkp", ipam.PoolReference{Kind: "IPPool", Name: "dkp"}},
		"metal3 kind and group":      {"IPPool.ipam.metal3.io/dkp", ipam.PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: "dkp"}},
		"in-cluster kind":            {"InClusterIPPool/dkp", ipam.PoolReference{Kind: "InClusterIPPool", Name: "dkp"}},
		"unknown kind":               {"InfobloxIPPool/a.b", ipam.PoolReference{Kind: "InfobloxIPPool", Name: "a.b"}},
		"unknown kind and group":     {"Range.ipam.example.com/dkp", ipam.PoolReference{APIGroup: "ipam.example.com", Kind: "Range", Name: "dkp"}},
		"metal3's kind, others' API": {"IPPool.ipam.example.com/dkp", ipam.PoolReference{APIGroup: "ipam.example.com", Kind: "IPPool", Name: "dkp"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := parseReference(test.text); err != nil || got != test.want {
				t.Errorf("got %+v and error %v, want %+v", got, err, test.want)
			}
		})
	}
}

func TestMalformedPoolReferenceIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "name of a pool",
		"Dkp":                  "name of a pool",
		"IPPool/":              "name of a pool",
		"IPPool/a/b":           "name of a pool",
		"/dkp":                 "not a kind",
		".ipam.metal3.io/dkp":  "not a kind",
		"IPPool./dkp":          "not an API group",
		"IPPool.Example.com/a": "not an API group",
		"ippools ipam/dkp":     "not a kind",
	} {
		if got, err := parseReference(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v and error %v, want an error with %q", text, got, err, want)
		}
	}
}
