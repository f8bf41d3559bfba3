package history

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Count is how often something was done, and how often it succeeded.
type Count struct {
	Name                  string
	Done, Refused, Failed int
}

func (c Count) sum() int { return c.Done + c.Refused + c.Failed }

// Summary is what there was in a history.
type Summary struct {
	Run        Run
	Operations []Count
	// Faults have what was begun as Done, and those that could have been chosen as well.
	Faults []Count
	// Creates is how long each create took that succeeded, the shortest first.
	Creates []time.Duration
	Changes int
	// Came and Went are machines that were stored, and that are gone, whoever made them; VMs
	// are those that were destroyed.
	Came, Went, VMs int
	// Lasted is from the first operation to the last one.
	Lasted time.Duration
	// Late is by how much somebody woke up too late: in the middle, and at the worst. Waiting
	// is how many programs ran or wanted to, in the middle.
	Late, Latest time.Duration
	Waiting      float64
}

// counter makes a summary.
type counter struct {
	Summary
	operations, faults map[string]*Count
	begun              map[int]time.Time
	known              map[string]bool
	first, last        time.Time
	late               []time.Duration
	waiting            []float64
}

// Summarize counts.
func Summarize(records []Record) Summary {
	c := &counter{operations: map[string]*Count{}, faults: map[string]*Count{}, begun: map[int]time.Time{}, known: map[string]bool{}}
	for _, r := range records {
		switch {
		case r.Run != nil:
			c.Run = *r.Run
			for _, kind := range r.Run.Faults {
				counted(c.faults, kind)
			}
		case r.Object != nil:
			c.change(r.Object)
		case r.VM != nil && r.VM.Kind == Destroyed:
			c.VMs++
		case r.Fault != nil && r.Fault.Phase == Begin:
			counted(c.faults, r.Fault.Kind).Done++
		case r.Load != nil:
			c.late, c.waiting = append(c.late, r.Load.Late), append(c.waiting, r.Load.Waiting)
		case r.Op != nil:
			c.operation(r)
		}
	}
	c.Operations, c.Faults = sorted(c.operations), sorted(c.faults)
	slices.Sort(c.Creates)
	slices.Sort(c.late)
	slices.Sort(c.waiting)
	c.Lasted, c.Late, c.Latest, c.Waiting = c.last.Sub(c.first), percentile(c.late, 50), percentile(c.late, 100), percentile(c.waiting, 50)
	return c.Summary
}

func (c *counter) change(o *Object) {
	c.Changes++
	switch {
	case o.Kind != Machine:
	case o.Gone:
		c.Went++
	case !c.known[o.UID]:
		c.known[o.UID] = true
		c.Came++
	}
}

func (c *counter) operation(r Record) {
	if c.first.IsZero() {
		c.first = r.Time
	}
	c.last = r.Time
	if r.Op.Phase == Begin {
		c.begun[r.Op.ID] = r.Time
		return
	}
	counted(c.operations, r.Op.Kind).add(r.Op.Outcome)
	if r.Op.Kind == Create && r.Op.Outcome == Done {
		c.Creates = append(c.Creates, r.Time.Sub(c.begun[r.Op.ID]))
	}
}

func counted(counts map[string]*Count, name string) *Count {
	if counts[name] == nil {
		counts[name] = &Count{Name: name}
	}
	return counts[name]
}

func (c *Count) add(outcome Outcome) {
	switch outcome {
	case Done:
		c.Done++
	case Refused:
		c.Refused++
	default:
		c.Failed++
	}
}

func sorted(counts map[string]*Count) []Count {
	var list []Count
	for _, count := range counts {
		list = append(list, *count)
	}
	slices.SortFunc(list, func(a, b Count) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// percentile is what so many of a hundred are at most, of a list that is in order.
func percentile[T cmp.Ordered](list []T, percent int) T {
	var none T
	if len(list) == 0 {
		return none
	}
	return list[min(len(list)*percent/100, len(list)-1)]
}

// Percentile is how long so many of a hundred creates took at most.
func (s Summary) Percentile(percent int) time.Duration { return percentile(s.Creates, percent) }

// Print prints the summary, and how often each rule was broken.
func (s Summary) Print(to io.Writer, found Verdict) {
	all := Count{Name: "all"}
	fmt.Fprintf(to, "\n%-28s %8s %8s %8s\n", "operation", "done", "refused", "failed")
	for _, c := range s.Operations {
		fmt.Fprintf(to, "%-28s %8d %8d %8d\n", c.Name, c.Done, c.Refused, c.Failed)
		all.Done, all.Refused, all.Failed = all.Done+c.Done, all.Refused+c.Refused, all.Failed+c.Failed
	}
	fmt.Fprintf(to, "%-28s %8d %8d %8d\n", all.Name, all.Done, all.Refused, all.Failed)
	faults := 0
	fmt.Fprintf(to, "\n%-28s %8s\n", "fault", "times")
	for _, c := range s.Faults {
		fmt.Fprintf(to, "%-28s %8d\n", c.Name, c.Done)
		faults += c.Done
	}
	fmt.Fprintf(to, "%-28s %8d\n", all.Name, faults)
	fmt.Fprintf(to, "\n%-28s %8s\n", "violation", "times")
	for _, rule := range Rules() {
		count := 0
		for _, v := range found.Violations {
			if v.Rule == rule {
				count++
			}
		}
		fmt.Fprintf(to, "%-28s %8d\n", rule, count)
	}
	s.printTotals(to, all.sum())
	for _, text := range found.Waits {
		fmt.Fprintf(to, "not judged: %s\n", text)
	}
}

func (s Summary) printTotals(to io.Writer, operations int) {
	if s.Run.Metal3Allocation != "" {
		fmt.Fprintf(to, "\naddresses of metal3's pools were asked for by %s", s.Run.Metal3Allocation)
	}
	fmt.Fprintf(to, "\n%d operations in %s, %.0f a minute; %d machines came, %d went (%d in all), and %d VMs\n",
		operations, s.Lasted.Round(time.Second), float64(operations)/max(s.Lasted.Minutes(), 1.0/60), s.Came, s.Went, s.Came+s.Went, s.VMs)
	fmt.Fprintf(to, "creates that succeeded: p50 %s, p90 %s, p99 %s, max %s; %d changes of objects were looked at\n",
		short(s.Percentile(50)), short(s.Percentile(90)), short(s.Percentile(99)), short(s.Percentile(100)), s.Changes)
	fmt.Fprintf(to, "the machine: load %.1f; who slept a moment woke up too late by at most %s, in most intervals by less than %s\n",
		s.Waiting, short(s.Latest), short(s.Late))
}

func short(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
