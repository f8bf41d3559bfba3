package inventory

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// locate finds out in which pools a finding is that names none: those from which its objects
// have its addresses, or which have them in their ranges.
func (a *audit) locate(f *Finding) {
	if len(f.Pools) > 0 {
		return
	}
	for _, object := range f.Involved {
		for _, b := range a.bindingsOf(object) {
			if slices.Contains(f.Addresses, b.Address.Addr()) {
				f.in(a.PoolOf(object.Namespace, b.Pool))
			}
		}
	}
	if len(f.Pools) > 0 || len(f.Involved) == 0 || f.Involved[0].Kind != capi.VSphereVMKind.Kind {
		return
	}
	for _, pool := range a.poolsSeenFrom(f.Involved[0].Namespace) {
		ranges, known := a.ranges[pool]
		if known && slices.ContainsFunc(f.Addresses, ranges.all.Contains) {
			f.in(pool)
		}
	}
}

// bindingsOf are those of a machine or a VSphereCluster.
func (a *audit) bindingsOf(object Involved) []ipam.Binding {
	switch object.Kind {
	case capi.VSphereMachineKind.Kind:
		if m := a.named[object.NamespacedName]; m != nil {
			return m.Bindings
		}
	case capi.VSphereClusterKind.Kind:
		for _, c := range a.Clusters {
			if c.Namespace == object.Namespace && c.Name == object.Name {
				return c.Bindings
			}
		}
	}
	return nil
}

// ChecksOfPools are the checks that find something in pools which their numbers do not show.
func ChecksOfPools() []CheckID {
	elsewhere := []CheckID{NoSource, WebhookUnready, TooFewForRollOut}
	return slices.DeleteFunc(CheckIDs(), func(id CheckID) bool { return slices.Contains(elsewhere, id) })
}

// Problems are findings by the pools that they are in.
type Problems map[PoolKey][]Finding

// ProblemsOf puts findings to their pools. That a pool has too few addresses for a roll-out
// is said of it in any case.
func ProblemsOf(findings []Finding) Problems {
	problems := Problems{}
	for _, f := range findings {
		pools := f.Pools
		if f.isOfPool() {
			// Others are named in it, and have findings of their own.
			pools = pools[:1]
		}
		for _, pool := range pools {
			if f.Check != TooFewForRollOut {
				problems[pool] = append(problems[pool], f)
			}
		}
	}
	return problems
}

// isOfPool tells whether a finding is about a pool itself.
func (f *Finding) isOfPool() bool {
	return len(f.Pools) > 0 && len(f.Involved) > 0 &&
		f.Involved[0] == Involved{f.Pools[0].Kind, types.NamespacedName{Namespace: f.Pools[0].Namespace, Name: f.Pools[0].Name}}
}

// hasError tells whether one of a pool's findings is an error.
func (p Problems) hasError(pool PoolKey) bool {
	return slices.ContainsFunc(p[pool], func(f Finding) bool { return f.Severity == Failing })
}

// At are what is wrong with addresses of a pool, by the address.
func (p Problems) At(pool PoolKey) map[netip.Addr]string {
	at := map[netip.Addr][]string{}
	for _, f := range p[pool] {
		for _, ip := range f.Addresses {
			at[ip] = append(at[ip], f.inShort())
		}
	}
	notes := make(map[netip.Addr]string, len(at))
	for ip, texts := range at {
		notes[ip] = strings.Join(slices.Compact(texts), "; ")
	}
	return notes
}

// Elsewhere are what is wrong with a pool, and with none of its addresses.
func (p Problems) Elsewhere(pool PoolKey) []string {
	var texts []string
	for _, f := range p[pool] {
		if len(f.Addresses) == 0 {
			texts = append(texts, f.inShort())
		}
	}
	return texts
}

// inShort is what is wrong beside the pool or the address that it is about.
func (f *Finding) inShort() string {
	text := f.Object + " " + f.Text
	switch {
	case f.Beside != "":
		text = f.Beside
	case f.isOfPool():
		text = "the pool " + f.Text
	case len(f.Addresses) == 1 && (f.Object == f.Addresses[0].String() || strings.HasPrefix(f.Text, f.Addresses[0].String()+" ")):
		// It names the address itself, and nothing but that.
		text = f.Text
	}
	return string(f.Check) + ": " + text
}

// besideOf names on what else an address is than on the one that has it from a pool, empty
// if there is not exactly one.
func besideOf(shared []use) string {
	var bound []use
	for _, one := range shared {
		if one.bound {
			bound = append(bound, one)
		}
	}
	if len(bound) != 1 {
		return ""
	}
	var others []string
	for _, one := range shared {
		if !one.bound {
			others = append(others, one.nameFrom(bound[0].Namespace))
		}
	}
	return "also on " + strings.Join(others, " and ")
}

// nameFrom names who has an address from no pool, and how, in a list of a namespace.
func (u use) nameFrom(namespace string) string {
	name := u.Kind + "/" + u.Name
	if u.Namespace != namespace {
		name = u.Kind + "/" + u.Namespace + "/" + u.Name
	}
	switch {
	case u.byGuest:
		name += " (its guest says so)"
	case u.machine != nil:
		name += " (static)"
	}
	return name
}

// rank is where a pool stands in a list: those first that somebody should look at first.
type rank int

const (
	// isBroken: there is an error in it.
	isBroken rank = iota
	isWaitedFor
	isExhausted
	isLow
	isNearlyFull
	// isDoubtful: there are warnings alone.
	isDoubtful
	isFine
)

func byRank(a, b Summary) int { return cmp.Compare(a.rank, b.rank) }
