package inventory

import (
	"slices"
	"time"
)

// Lookout is for who reads again and again: it finds what is wrong in one Graph after the
// other. As with Audit, what looks wrong counts only if it still does on a second look. Here
// the second look is a later read that is made anyway, so nobody waits for one.
type Lookout struct {
	Limits Limits
	// Pause is how long after the first look the second one comes, see SecondLook.
	Pause time.Duration

	// since is when that read ended which showed first what all reads have shown since.
	since map[suspicion]time.Time
}

// suspicion is what a finding is known by on a second look.
type suspicion struct {
	check  CheckID
	object string
}

// Look is what is wrong in a Graph that was read from began to ended. Unsure are those that
// look wrong, and were not looked at twice.
func (l *Lookout) Look(g *Graph, began, ended time.Time) (report *Report, unsure int) {
	report = &Report{Graph: g}
	report.Findings, report.LeftOut = g.Findings(l.Limits)
	since := map[suspicion]time.Time{}
	report.Findings = slices.DeleteFunc(report.Findings, func(f Finding) bool {
		if f.settled {
			return false
		}
		key := suspicion{f.Check, f.Object}
		first, known := l.since[key]
		if !known {
			first = ended
		}
		since[key] = first
		isSure := known && began.Sub(first) >= l.Pause
		if !isSure {
			unsure++
		}
		return !isSure
	})
	l.since = since
	return report, unsure
}
