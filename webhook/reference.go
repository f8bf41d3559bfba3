package webhook

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator"
)

// kindPattern is what the CAPI IPAM contract allows as the kind of a pool
// (api/ipam/v1beta2, IPPoolReference).
var kindPattern = regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)

// parseReference reads a reference to a pool: NAME, KIND/NAME or
// KIND.GROUP/NAME. A NAME alone leaves the kind open. A KIND alone is metal3's
// IPPool, or one of the group in which CAPI's own IPAM providers have theirs.
func parseReference(text string) (allocator.PoolReference, error) {
	qualified, name, hasKind := strings.Cut(text, "/")
	if !hasKind {
		qualified, name = "", text
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return allocator.PoolReference{}, fmt.Errorf("%q is not the name of a pool", name)
	}
	if !hasKind {
		return allocator.PoolReference{Name: name}, nil
	}
	kind, group, hasGroup := strings.Cut(qualified, ".")
	if !kindPattern.MatchString(kind) {
		return allocator.PoolReference{}, fmt.Errorf("%q is not a kind", kind)
	}
	switch metal3 := allocator.Metal3Pool(name); {
	case hasGroup && len(validation.IsDNS1123Subdomain(group)) > 0:
		return allocator.PoolReference{}, fmt.Errorf("%q is not an API group", group)
	case hasGroup:
	case kind == metal3.Kind:
		return metal3, nil
	default:
		group = ipamv1.GroupVersion.Group
	}
	return allocator.PoolReference{APIGroup: group, Kind: kind, Name: name}, nil
}
