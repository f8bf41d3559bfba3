package retry

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// Obstacle is what an owner of refused machines waits for: a pool that serves, or,
// where looking at no pool would show that it is out of the way, a try.
type Obstacle struct {
	Pool ipam.PoolReference
	// Reason is that of the refusal. It is empty if a pool is named.
	Reason ipam.Reason
}

// ShortagesOf is what led to a refusal, and the numbers of addresses needed.
func ShortagesOf(refusal *ipam.Refusal) Shortages {
	if len(refusal.Shortages) == 0 {
		return Shortages{Obstacle{Reason: refusal.Reason}: 1}
	}
	shortages := Shortages{}
	for _, short := range refusal.Shortages {
		shortages.Add(Obstacle{Pool: short.Pool}, max(short.Needed, 1))
	}
	return shortages
}

// String is the form in which RefusedByAnnotation holds the obstacle.
func (o Obstacle) String() string {
	if o.Reason != "" {
		return string(o.Reason)
	}
	return o.Pool.String()
}

// maxShortages bounds what is read of an owner, as whoever may write the owner can
// write anything there. Machines that ask for more pools are rare, and
// lose nothing: their owner waits for those that refused last.
const maxShortages = 16

// maxNeeded is more than the devices that a machine can have.
const maxNeeded = 255

// Shortages is the content of RefusedByAnnotation: the obstacles to the machines of an
// owner, each with the number of addresses that would have been enough; that is
// one where it is no pool.
type Shortages map[Obstacle]uint64

// ParseShortages reads the value of RefusedByAnnotation: pools as KIND.GROUP/NAME,
// each followed by a colon and the number of addresses needed if that is not one,
// and reasons, separated by commas. What is not of this form is left out.
func ParseShortages(annotation string) Shortages {
	shortages := Shortages{}
	looked := 0
	for entry := range strings.SplitSeq(annotation, ",") {
		if obstacle, needed, ok := parseObstacle(strings.TrimSpace(entry)); ok {
			shortages.Add(obstacle, needed)
		}
		if looked++; looked == maxShortages {
			break
		}
	}
	return shortages
}

func parseObstacle(entry string) (obstacle Obstacle, needed uint64, ok bool) {
	if isReason(entry) {
		return Obstacle{Reason: ipam.Reason(entry)}, 1, true
	}
	text, count, counted := strings.Cut(entry, ":")
	needed = 1
	if counted {
		var err error
		if needed, err = strconv.ParseUint(count, 10, 8); err != nil || needed == 0 {
			return Obstacle{}, 0, false
		}
	}
	kind, name, _ := strings.Cut(text, "/")
	kind, group, _ := strings.Cut(kind, ".")
	if !isName(strings.ToLower(kind)) || !isName(group) || !isName(name) {
		return Obstacle{}, 0, false
	}
	return Obstacle{Pool: ipam.PoolReference{APIGroup: group, Kind: kind, Name: name}}, needed, true
}

func isName(text string) bool { return len(validation.IsDNS1123Subdomain(text)) == 0 }

// isReason tells whether this is one word, beginning with a capital letter.
func isReason(text string) bool {
	return len(text) <= validation.DNS1123LabelMaxLength && len(text) > 0 && text[0] >= 'A' && text[0] <= 'Z' &&
		!strings.ContainsFunc(text, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') })
}

// Add puts an obstacle beside the others. Of one pool the least need stays: then the
// shortages of machines that are refused in turn, for different reasons, come to an
// end, and no owner waits for more than would help it. If there are
// maxShortages already, they are dropped, and this one alone is kept.
func (l Shortages) Add(obstacle Obstacle, needed uint64) {
	before, known := l[obstacle]
	if !known && len(l) >= maxShortages {
		clear(l)
	}
	if !known || needed < before {
		l[obstacle] = min(needed, maxNeeded)
	}
}

// String is the form in which RefusedByAnnotation holds the shortages.
func (l Shortages) String() string {
	entries := make([]string, 0, len(l))
	for obstacle := range maps.Keys(l) {
		entry := obstacle.String()
		if needed := l[obstacle]; needed != 1 {
			entry += ":" + strconv.FormatUint(needed, 10)
		}
		entries = append(entries, entry)
	}
	slices.Sort(entries)
	return strings.Join(entries, ",")
}

// HasReason tells whether there is a refusal that no pool will end.
func (l Shortages) HasReason() bool {
	for obstacle := range l {
		if obstacle.Reason != "" {
			return true
		}
	}
	return false
}

// OwnerKinds are the kinds that make machines again when they were refused, and
// at once when they are written. Only these carry RefusedByAnnotation.
func OwnerKinds() []schema.GroupKind {
	return []schema.GroupKind{capi.MachineSetKind, capi.KubeadmControlPlaneKind}
}
