package contract

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

var _ ipam.Detailed = Provider{}

// Details implements ipam.Detailed. The in-cluster provider itself leaves out what the
// network of its pool needs, but it knows nothing of name servers.
func (c Provider) Details(pool client.Object) ipam.Details {
	all, reserved, ok := c.Ranges(pool)
	if !ok {
		return ipam.Details{}
	}
	details := ipam.Details{Nameservers: ipam.SplitList(pool.GetAnnotations()[ipam.NameserversAnnotation])}
	if object, is := pool.(*unstructured.Unstructured); is {
		if gateway, _, _ := unstructured.NestedString(object.Object, "spec", "gateway"); gateway != "" {
			details.Gateways = []string{gateway}
		}
		bits, _, _ := unstructured.NestedInt64(object.Object, "spec", "prefix")
		details.Bits = int(bits)
	}
	for _, text := range details.Nameservers {
		if ip := capi.ParseAddress(text); all.Contains(ip) && !reserved.Contains(ip) {
			details.Needed = append(details.Needed, ipam.NeededAddress{What: "its name server", IP: ip})
		}
	}
	return details
}
