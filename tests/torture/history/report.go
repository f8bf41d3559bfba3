package history

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Window are the records of a history that show a violation, in the order of their times,
// and what was broken meanwhile. It begins with the operations that were under way then.
func Window(records []Record, v Violation) []Record {
	within := func(r Record) bool { return !r.Time.Before(v.From) && !r.Time.After(v.To) && v.concerns(r) }
	underWay := map[int]bool{}
	for _, r := range records {
		if r.Op != nil && r.Op.Phase == End && within(r) {
			underWay[r.Op.ID] = true
		}
	}
	for _, r := range records {
		if r.Op != nil && r.Op.Phase == Begin && underWay[r.Op.ID] && r.Time.Before(v.From) {
			v.From = r.Time
		}
	}
	var window []Record
	for _, r := range records {
		if within(r) {
			window = append(window, r)
		}
	}
	slices.SortStableFunc(window, func(a, b Record) int { return a.Time.Compare(b.Time) })
	return window
}

// concerns tells whether a record is about the same addresses or names, or about a fault.
func (v Violation) concerns(r Record) bool {
	isOf := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return name != "" && slices.Contains(v.Names, name) })
	}
	has := func(addresses []string) bool {
		return slices.ContainsFunc(addresses, func(address string) bool { return slices.Contains(v.Addresses, address) })
	}
	switch {
	case r.Object != nil:
		return isOf(r.Object.Name, r.Object.Machine) || has(r.Object.Addresses)
	case r.Op != nil:
		return isOf(r.Op.Name)
	case r.VM != nil:
		return isOf(r.VM.Name) || has(r.VM.Addresses)
	default:
		return r.Fault != nil || r.Mark != ""
	}
}

// longest is how many records of one violation are printed.
const longest = 120

// Explain prints a violation and the window that shows it.
func Explain(to io.Writer, records []Record, v Violation) {
	fmt.Fprintf(to, "%s: %s\n", v.Rule, v.Text)
	window := Window(records, v)
	if skipped := len(window) - longest; skipped > 0 {
		// The last ones say how it came.
		window = window[skipped:]
		fmt.Fprintf(to, "    (%d earlier records are in the history)\n", skipped)
	}
	for _, r := range window {
		fmt.Fprintf(to, "    %s %s\n", r.Time.Format("15:04:05.000"), r)
	}
}

func (r Record) String() string {
	switch {
	case r.Object != nil:
		return r.Object.describe()
	case r.Op != nil:
		return strings.TrimRight(fmt.Sprintf("op %d %s: %s %s/%s %s %s", r.Op.ID, r.Op.Phase, r.Op.Kind, r.Op.Namespace, r.Op.Name, r.Op.Outcome, r.Op.Text), " ")
	case r.Fault != nil:
		return strings.TrimRight(fmt.Sprintf("fault %d %s: %s %s %s", r.Fault.ID, r.Fault.Phase, r.Fault.Kind, r.Fault.Target, r.Fault.Text), " ")
	case r.VM != nil:
		return fmt.Sprintf("vCenter %d: VM %s (%s) %s %v", r.VM.Sequence, r.VM.Name, r.VM.ID, r.VM.Kind, r.VM.Addresses)
	default:
		return "mark: " + string(r.Mark)
	}
}

// describe says how an object is stored.
func (o *Object) describe() string {
	var text strings.Builder
	fmt.Fprintf(&text, "revision %d: %s", o.Revision, o)
	if o.Gone {
		return text.String() + " is gone"
	}
	for _, part := range []struct{ name, value string }{
		{"addresses", strings.Join(o.Addresses, ",")}, {"machine", o.Machine}, {"claim", o.Claim}, {"address", o.Address},
		{"pool", o.Pool}, {"finalizers", strings.Join(o.Finalizers, ",")}, {"uid", o.UID},
	} {
		if part.value != "" {
			fmt.Fprintf(&text, " %s=%s", part.name, part.value)
		}
	}
	if o.DeletedAt != nil {
		fmt.Fprintf(&text, " deleted=%s", o.DeletedAt.Format("15:04:05"))
	}
	if o.ByHand {
		text.WriteString(" by-hand")
	}
	return text.String()
}

// Count is how often something was done, and how often it succeeded.
type Count struct {
	Name                  string
	Done, Refused, Failed int
}

// Summary is what there was in a history.
type Summary struct {
	Operations []Count
	// Faults have what was begun as Done.
	Faults []Count
	// Creates is how long each create took that succeeded, the shortest first.
	Creates []time.Duration
	Changes int
	VMs     int
}

// Summarize counts.
func Summarize(records []Record) Summary {
	var s Summary
	operations, faults, begun := map[string]*Count{}, map[string]*Count{}, map[int]time.Time{}
	for _, r := range records {
		switch {
		case r.Object != nil:
			s.Changes++
		case r.VM != nil && r.VM.Kind == Destroyed:
			s.VMs++
		case r.Fault != nil && r.Fault.Phase == Begin:
			counted(faults, r.Fault.Kind).Done++
		case r.Op == nil:
		case r.Op.Phase == Begin:
			begun[r.Op.ID] = r.Time
		default:
			counted(operations, r.Op.Kind).add(r.Op.Outcome)
			if r.Op.Kind == Create && r.Op.Outcome == Done {
				s.Creates = append(s.Creates, r.Time.Sub(begun[r.Op.ID]))
			}
		}
	}
	s.Operations, s.Faults = sorted(operations), sorted(faults)
	slices.Sort(s.Creates)
	return s
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

// Percentile is how long so many of a hundred creates took at most.
func (s Summary) Percentile(percent int) time.Duration {
	if len(s.Creates) == 0 {
		return 0
	}
	return s.Creates[min(len(s.Creates)*percent/100, len(s.Creates)-1)]
}

// Print prints the summary, and how often each rule was broken.
func (s Summary) Print(to io.Writer, found []Violation) {
	fmt.Fprintf(to, "\n%-28s %8s %8s %8s\n", "operation", "done", "refused", "failed")
	for _, c := range s.Operations {
		fmt.Fprintf(to, "%-28s %8d %8d %8d\n", c.Name, c.Done, c.Refused, c.Failed)
	}
	fmt.Fprintf(to, "\n%-28s %8s\n", "fault", "times")
	for _, c := range s.Faults {
		fmt.Fprintf(to, "%-28s %8d\n", c.Name, c.Done)
	}
	fmt.Fprintf(to, "\n%-28s %8s\n", "violation", "times")
	for _, rule := range Rules() {
		count := 0
		for _, v := range found {
			if v.Rule == rule {
				count++
			}
		}
		fmt.Fprintf(to, "%-28s %8d\n", rule, count)
	}
	fmt.Fprintf(to, "\ncreates that succeeded: p50 %s, p90 %s, p99 %s, max %s; %d changes of objects and %d destroyed VMs were looked at\n",
		short(s.Percentile(50)), short(s.Percentile(90)), short(s.Percentile(99)), short(s.Percentile(100)), s.Changes, s.VMs)
}

func short(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
