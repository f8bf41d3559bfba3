package allocator

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"capv-static-ip.dev/allocator/capi"
)

// Lack is what one pool did not have for a machine that was refused.
type Lack struct {
	Pool PoolReference
	// Needed is the number of addresses that the machine asked of the pool.
	Needed uint64
}

// lacking says of a Refusal what was lacking. Other errors stay as they are.
func lacking(err error, lack Lack) error {
	if refusal, ok := AsRefusal(err); ok {
		refusal.Lack = lack
	}
	return err
}

// Lacks is the content of RefusedByAnnotation: for each pool that refused a
// machine of an owner, the number of addresses that would have been enough.
type Lacks map[PoolReference]uint64

// ParseLacks reads the value of RefusedByAnnotation: KIND.GROUP/NAME, separated
// by commas, each followed by a colon and the number of addresses needed if that
// is not one. What is not of this form is left out.
func ParseLacks(annotation string) Lacks {
	lacks := Lacks{}
	for entry := range strings.SplitSeq(annotation, ",") {
		text, count, counted := strings.Cut(strings.TrimSpace(entry), ":")
		needed := uint64(1)
		if counted {
			var err error
			if needed, err = strconv.ParseUint(count, 10, 8); err != nil {
				continue
			}
		}
		kind, name, _ := strings.Cut(text, "/")
		kind, group, _ := strings.Cut(kind, ".")
		if kind == "" || group == "" || name == "" || needed == 0 {
			continue
		}
		lacks.Add(Lack{Pool: PoolReference{APIGroup: group, Kind: kind, Name: name}, Needed: needed})
	}
	return lacks
}

// Add puts a lack beside the others. Of one pool the least need stays: then the
// lacks of machines that are refused in turn, for different reasons, come to an
// end, and no owner waits for more than would help it.
func (l Lacks) Add(lack Lack) {
	if needed, ok := l[lack.Pool]; !ok || lack.Needed < needed {
		l[lack.Pool] = lack.Needed
	}
}

// String is the form in which RefusedByAnnotation holds the lacks.
func (l Lacks) String() string {
	entries := make([]string, 0, len(l))
	for pool := range maps.Keys(l) {
		entry := pool.String()
		if needed := l[pool]; needed != 1 {
			entry += ":" + strconv.FormatUint(needed, 10)
		}
		entries = append(entries, entry)
	}
	slices.Sort(entries)
	return strings.Join(entries, ",")
}

// OwnerKinds are the kinds that make machines again when they were refused, and
// at once when they are written. Only these carry RefusedByAnnotation.
func OwnerKinds() []schema.GroupKind {
	return []schema.GroupKind{capi.MachineSetKind, capi.KubeadmControlPlaneKind}
}
