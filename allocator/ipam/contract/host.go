package contract

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// hostOf is the host name on a claim, in the DNS zone of the pool where the pool
// has one (spec.dnsZone): the Infoblox provider registers the name as it stands,
// and its server refuses one outside the zone.
func hostOf(spec ipam.ClaimSpec) string {
	host := spec.Host
	if host == "" {
		host = spec.Machine.Name
	}
	if zone := dnsZone(spec.PoolObject); zone != "" && !strings.HasSuffix(host, "."+zone) {
		host += "." + zone
	}
	return host
}

func dnsZone(pool client.Object) string {
	obj, ok := pool.(*unstructured.Unstructured)
	if !ok {
		return ""
	}
	// Of other kinds nothing is known: the field may hold anything.
	zone, _, _ := unstructured.NestedString(obj.Object, "spec", "dnsZone")
	return strings.Trim(zone, ".")
}
