package allocator

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
)

// nameHost gives a claim that carries a host name the one of the want, in the DNS
// zone of the pool where the pool has one (spec.dnsZone): the Infoblox provider
// registers the name as it stands, and its server refuses one outside the zone.
func nameHost(claim client.Object, want Want, pool Pool) {
	host := claim.GetAnnotations()[hostnameAnnotation]
	if host == "" {
		return
	}
	if want.Host != "" {
		host = want.Host
	}
	if zone := dnsZone(pool); zone != "" && !strings.HasSuffix(host, "."+zone) {
		host += "." + zone
	}
	kube.SetAnnotation(claim, hostnameAnnotation, host)
}

func dnsZone(pool Pool) string {
	obj, ok := pool.Object.(*unstructured.Unstructured)
	if !ok {
		return ""
	}
	// Of other kinds nothing is known: the field may hold anything.
	zone, _, _ := unstructured.NestedString(obj.Object, "spec", "dnsZone")
	return strings.Trim(zone, ".")
}
