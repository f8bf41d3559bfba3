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
	case r.Load != nil:
		return r.Load.Late > notableLate
	default:
		return r.Fault != nil || r.Mark != ""
	}
}

// notableLate is by how much somebody woke up too late, if that is to be told.
const notableLate = 2 * time.Second

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
	case r.Load != nil:
		return fmt.Sprintf("the machine was busy: %s too late, load %.1f", r.Load.Late.Round(time.Millisecond), r.Load.Waiting)
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
		{"endpoint", o.Endpoint}, {"machine-uid", o.MachineUID}, {"pool", o.Pool}, {"finalizers", strings.Join(o.Finalizers, ",")}, {"uid", o.UID},
	} {
		if part.value != "" {
			fmt.Fprintf(&text, " %s=%s", part.name, part.value)
		}
	}
	if o.DeletedAt != nil {
		fmt.Fprintf(&text, " deleted=%s", o.DeletedAt.Format("15:04:05"))
	}
	for _, part := range []struct {
		name string
		is   bool
	}{{" by-hand", o.ByHand}, {" cools", o.Cools}, {" set-aside", o.SetAside}, {" paused", o.Paused}} {
		if part.is {
			text.WriteString(part.name)
		}
	}
	return text.String()
}
