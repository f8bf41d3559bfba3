package machine

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"capv-static-ip.dev/allocator/ipam"
)

// kindPattern is what the CAPI IPAM contract allows as the kind of a pool
// (api/ipam/v1beta2, IPPoolReference).
var kindPattern = regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)

// parseReference reads a reference to a pool: NAME, KIND/NAME or
// KIND.GROUP/NAME. What the text does not say is left open: allocator.Resolve
// knows which pools there are.
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
	if hasGroup && len(validation.IsDNS1123Subdomain(group)) > 0 {
		return ipam.PoolReference{}, fmt.Errorf("%q is not an API group", group)
	}
	return ipam.PoolReference{APIGroup: group, Kind: kind, Name: name}, nil
}
