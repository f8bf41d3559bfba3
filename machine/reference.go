package machine

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// kindPattern is what the CAPI IPAM contract allows as the kind of a pool
// (api/ipam/v1beta2, IPPoolReference).
var kindPattern = regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)

// parseReference reads a reference to a pool: NAME, KIND/NAME or
// KIND.GROUP/NAME. A NAME alone leaves the kind open. A KIND alone is metal3's
// IPPool, or one of the group in which CAPI's own IPAM providers have theirs.
func parseReference(text string) (ipam.PoolReference, error) {
	qualified, name, hasKind := strings.Cut(text, "/")
	if !hasKind {
		qualified, name = "", text
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return ipam.PoolReference{}, fmt.Errorf("%q is not the name of a pool", name)
	}
	if !hasKind {
		return ipam.PoolReference{Name: name}, nil
	}
	kind, group, hasGroup := strings.Cut(qualified, ".")
	if !kindPattern.MatchString(kind) {
		return ipam.PoolReference{}, fmt.Errorf("%q is not a kind", kind)
	}
	switch metal3 := metal3.PoolNamed(name); {
	case hasGroup && len(validation.IsDNS1123Subdomain(group)) > 0:
		return ipam.PoolReference{}, fmt.Errorf("%q is not an API group", group)
	case hasGroup:
	case kind == metal3.Kind:
		return metal3, nil
	default:
		group = ipamv1.GroupVersion.Group
	}
	return ipam.PoolReference{APIGroup: group, Kind: kind, Name: name}, nil
}
