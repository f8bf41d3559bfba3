package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Rule is something that must not be.
type Rule string

const (
	// Shared is an address in two machines, or in two VMs, at the same moment.
	Shared Rule = "address in two machines"
	// Freed is an address that goes back to its pool while its machine, or a VM of it,
	// exists; or that a machine has without that its pool knows.
	Freed Rule = "address freed too soon"
	// Leaked is a claim or an address that is left after the grace period.
	Leaked Rule = "claim or address left"
	// Wedged is something whose deletion does not end.
	Wedged Rule = "deletion wedged"
	// Moved is a machine that a move of its Cluster, or of its address to another pool, left
	// without that, or half way.
	Moved Rule = "machine lost by a move"
	// Unserved is a machine that got no address though there was one.
	Unserved Rule = "machine not served"
	// Hot is an address that was given to somebody else before it had cooled down.
	Hot Rule = "address given too soon"
	// Frozen is an address that was given, or given back, where that was frozen.
	Frozen Rule = "changed while frozen"
)

// Rules are all of them.
func Rules() []Rule { return []Rule{Shared, Freed, Hot, Frozen, Leaked, Wedged, Moved, Unserved} }

// Violation is that something happened which must not.
type Violation struct {
	Rule Rule
	Text string
	// Addresses and Names are those that it is about, and From and To the shortest time
	// that shows it.
	Addresses []string
	Names     []string
	From, To  time.Time
}

// Limits say how much is allowed for.
type Limits struct {
	// Wedge is for how long something may be being deleted when all has settled.
	Wedge time.Duration
	// Blind is how old what somebody wrote by hand must be, so that it is known to those
	// who hand out addresses.
	Blind time.Duration
	// Aftermath is how long a fault may be felt after its end.
	Aftermath time.Duration
	// Delay is how much later than it was made a change may be seen.
	Delay time.Duration
	// Restore is for how long what had a machine may wait for a backup to bring that back.
	Restore time.Duration
}

// DefaultLimits are those of a run.
func DefaultLimits() Limits {
	return Limits{Wedge: 45 * time.Second, Blind: 10 * time.Second, Aftermath: 30 * time.Second, Delay: time.Second, Restore: time.Hour}
}

// checker judges a history.
type checker struct {
	limits  Limits
	records []Record
	// changes are the changes of objects, in the order in which they were made.
	changes []Record
	faults  []span
	// away are the times in which MovedNamespace is elsewhere, or on its way.
	away []span
	vms  *vms

	// worn is who had an address last, and blurred are the times in which it is not known for
	// how long an address cools down.
	worn    map[string]*worn
	blurred []span

	// frozen are the times in which something is, deaf those in which it may not be known, and
	// byHand names what somebody deleted.
	frozen []frozen
	deaf   []span
	byHand map[string]bool
	// ended is when a namespace was seen to be gone.
	ended map[string]time.Time

	state *state
	found []Violation
	known map[string]bool
	// waits are objects that look left, and need not be.
	waits map[string]string
}

// Verdict is what a history proves.
type Verdict struct {
	Violations []Violation
	// Waits say of objects that they are there without anybody who needs them, and may be.
	Waits []string
}

// Check looks for all violations in a history.
func Check(records []Record, limits Limits) Verdict {
	c := &checker{limits: limits, records: records, state: newState(), known: map[string]bool{}, waits: map[string]string{}, worn: map[string]*worn{}}
	c.faults = faultsOf(records, limits.Aftermath, func(*Fault) bool { return true })
	c.blurred = faultsOf(records, limits.Aftermath, blurs)
	c.away = faultsOf(records, 0, func(f *Fault) bool { return f.Target == MovedNamespace })
	c.frozen, c.deaf, c.byHand = frozenOf(records), faultsOf(records, c.limits.Delay, deafens), byHandOf(records)
	c.ended = endedOf(records)
	c.vms = vmsOf(records)
	for _, r := range records {
		if r.Object != nil {
			c.changes = append(c.changes, r)
		}
	}
	slices.SortStableFunc(c.changes, func(a, b Record) int { return cmp.Compare(a.Object.Revision, b.Object.Revision) })
	c.found = append(c.found, c.vms.shared()...)
	c.replay()
	c.requests()
	c.moves()
	slices.SortStableFunc(c.found, func(a, b Violation) int { return a.To.Compare(b.To) })
	return Verdict{c.found, slices.Sorted(maps.Values(c.waits))}
}

// replay makes all changes, and looks after each. What a mark claims is looked at when
// all changes that had been seen by then are made.
func (c *checker) replay() {
	marks := marksOf(c.records)
	at := 0
	for _, mark := range marks {
		// Nothing changes when all has settled, so that a change is not older than it looks.
		for at < len(c.changes) && !c.changes[at].Time.After(mark.Time) {
			c.change(c.changes[at])
			at++
		}
		c.settled(mark)
	}
	for ; at < len(c.changes); at++ {
		c.change(c.changes[at])
	}
}

func marksOf(records []Record) []Record {
	return slices.DeleteFunc(slices.Clone(records), func(r Record) bool { return r.Mark == "" })
}

// faultsOf are the times in which something was broken, or may be felt to have been.
func faultsOf(records []Record, aftermath time.Duration, wanted func(*Fault) bool) []span {
	begun := map[int]time.Time{}
	var list []span
	var last time.Time
	for _, r := range records {
		last = r.Time
		switch {
		case r.Fault == nil || !wanted(r.Fault):
		case r.Fault.Phase == Begin:
			begun[r.Fault.ID] = r.Time
		default:
			list = append(list, span{begun[r.Fault.ID], r.Time.Add(aftermath)})
			delete(begun, r.Fault.ID)
		}
	}
	for _, from := range begun {
		list = append(list, span{from, last})
	}
	return list
}

// calm tells whether nothing was broken at a time.
func (c *checker) calm(from, to time.Time) bool {
	return !slices.ContainsFunc(c.faults, func(s span) bool { return s.overlaps(from, to) })
}

// report notes a violation once: what it is about stays as it is for a while.
func (c *checker) report(id string, v Violation) {
	id = string(v.Rule) + id
	if c.known[id] {
		return
	}
	c.known[id] = true
	c.found = append(c.found, v)
}

// change makes a change, and looks at the addresses that it is about.
func (c *checker) change(r Record) {
	addresses := c.state.apply(r)
	if r.Object.Namespace == MovedNamespace && slices.ContainsFunc(c.away, func(s span) bool { return !r.Time.Before(s.from) && !r.Time.After(s.to) }) {
		return // clusterctl takes apart here what it has made elsewhere
	}
	c.leftAlone(r)
	for _, address := range addresses {
		holders := c.state.holders(address)
		c.cooled(address, holders, r)
		c.unique(address, holders, r)
		c.keptFor(address, holders, r)
		if r.Object.Gone && r.Object.isAddress() {
			c.keptForVMs(address, r)
		}
	}
}

// unique sees that no two machines have an address. One that brought it along may do so if
// the product could not know.
func (c *checker) unique(address string, holders []holding, r Record) {
	for i, later := range holders {
		for _, earlier := range holders[:i] {
			if earlier.who() == later.who() || c.unknowable(earlier, later) {
				continue
			}
			c.report(address+earlier.who()+later.who(), Violation{
				Rule: Shared,
				Text: fmt.Sprintf("%s has %s, which %s still has (since revision %d)", later, address, earlier,
					earlier.since.Object.Revision),
				Addresses: []string{address}, Names: []string{earlier.Name, later.Name},
				From: earlier.since.Time, To: r.Time,
			})
		}
	}
}

// unknowable tells whether one of two brought the address along, and the later one came
// before the product can be asked to know of the earlier one.
func (c *checker) unknowable(earlier, later holding) bool {
	if !earlier.ByHand && !later.ByHand {
		return false
	}
	from, to := earlier.since.Time, later.since.Time
	return to.Sub(from) < c.limits.Blind || !c.calm(to.Add(-c.limits.Blind), to)
}

// keptFor sees that an address is in no pool that could give it to somebody else.
func (c *checker) keptFor(address string, holders []holding, r Record) {
	if len(c.state.kept[address]) > 0 {
		return
	}
	for _, holder := range holders {
		if holder.ByHand {
			continue
		}
		c.report(address+holder.who(), Violation{
			Rule:      Freed,
			Text:      fmt.Sprintf("%s has %s, and there is no address object of it any more, or yet", holder, address),
			Addresses: []string{address}, Names: []string{holder.Name},
			From: holder.since.Time, To: r.Time,
		})
	}
}

// keptForVMs sees that no VM has an address that has just become free. The vCenter noted
// that a VM goes before it told anybody.
func (c *checker) keptForVMs(address string, r Record) {
	if len(c.state.kept[address]) > 0 {
		return
	}
	for _, vm := range c.vms.with(address, r.Time) {
		c.report(address+vm.id, Violation{
			Rule:      Freed,
			Text:      fmt.Sprintf("%s, the address object of %s, is gone, and VM %s (%s) still has it", r.Object, address, vm.name, vm.id),
			Addresses: []string{address}, Names: []string{vm.name, r.Object.Name},
			From: vm.from, To: r.Time,
		})
	}
}
