package measure

import (
	"fmt"
	"io"
)

// Goal is what is aimed at. The zero value aims at nothing.
type Goal struct {
	// Limit is the most that is wanted, or the least.
	Limit float64
	// Least says which of both it is.
	Least bool
	// Unit comes after the limit, as in " MiB".
	Unit string
}

// String says the goal.
func (g Goal) String() string {
	switch {
	case g.Limit == 0:
		return "none"
	case g.Least:
		return fmt.Sprintf("at least %g%s", g.Limit, g.Unit)
	default:
		return fmt.Sprintf("at most %g%s", g.Limit, g.Unit)
	}
}

// Verdict says whether the goal was met, nothing if there is none.
func (g Goal) Verdict(measured float64) string {
	switch {
	case g.Limit == 0:
		return ""
	case g.Least:
		return AtLeast(measured, g.Limit)
	default:
		return AtMost(measured, g.Limit)
	}
}

// Finding is one thing that was measured, in one of several ways to do it.
type Finding struct {
	What, Way string
	Measured  float64
	Goal      Goal
	// Of says what it is made of, or what bounds it.
	Of string
}

// PrintFindings prints findings as one table.
func PrintFindings(out io.Writer, findings []Finding) {
	Table(out, "what", "way", "measured", "goal", "", "made of, or bound by")
	for _, f := range findings {
		Row(out, f.What, f.Way, fmt.Sprintf("%.2f%s", f.Measured, f.Goal.Unit), f.Goal.String(), f.Goal.Verdict(f.Measured), f.Of)
	}
}
