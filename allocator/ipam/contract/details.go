package contract

import (
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
	var details ipam.Details
	for _, text := range ipam.SplitList(pool.GetAnnotations()[ipam.NameserversAnnotation]) {
		if ip := capi.ParseAddress(text); all.Contains(ip) && !reserved.Contains(ip) {
			details.Needed = append(details.Needed, ipam.NeededAddress{What: "its name server", IP: ip})
		}
	}
	return details
}
