package inventory

import (
	"context"
	"slices"
	"time"
)

// SecondLook is how long after the first look the second one comes.
const SecondLook = 2 * time.Second

// Report is what an audit has found.
type Report struct {
	// Graph is the first look, and that of a Lookout the newest.
	*Graph
	Findings []Finding
	LeftOut  []LeftOut
}

// Audit reads the cluster and finds what is wrong by these checks, all if there are none. The
// lists of a Graph are not of one moment, so what looks wrong is looked at once more after a
// pause, in the namespaces where it is, and counts only if it is still so.
func (s Source) Audit(ctx context.Context, limits Limits, pause time.Duration, only ...CheckID) (*Report, error) {
	s.ForFindings, s.findingsAlone = true, true
	graph, err := s.Read(ctx)
	if err != nil {
		return nil, err
	}
	return s.AuditOf(ctx, graph, limits, pause, only...)
}

// AuditOf is Audit where the first look is at what was read already.
func (s Source) AuditOf(ctx context.Context, graph *Graph, limits Limits, pause time.Duration, only ...CheckID) (*Report, error) {
	report := &Report{Graph: graph}
	report.Findings, report.LeftOut = graph.Findings(limits, only...)
	suspicious := slices.DeleteFunc(slices.Clone(report.Findings), func(f Finding) bool { return f.settled })
	if len(suspicious) == 0 {
		return report, nil
	}

	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(pause):
	}
	if namespaces, all := namespacesOf(suspicious); !all && s.Namespace == "" {
		s.namespaces = namespaces
	}
	if !slices.Contains(checksOf(suspicious), GuestInPool) {
		s.VCenters = nil
	}
	again, err := s.Read(ctx)
	if err != nil {
		return nil, err
	}
	still, left := again.Findings(limits, checksOf(suspicious)...)
	report.Findings = slices.DeleteFunc(report.Findings, func(f Finding) bool {
		return !f.settled && !slices.ContainsFunc(still, func(other Finding) bool { return f.Check == other.Check && f.Object == other.Object })
	})
	// What could be listed a moment ago can be listed no more.
	for _, l := range left {
		if !slices.ContainsFunc(report.LeftOut, func(other LeftOut) bool { return other.Check == l.Check }) {
			report.LeftOut = append(report.LeftOut, l)
		}
	}
	return report, nil
}

// namespacesOf are where findings were seen; all says that it may be anywhere.
func namespacesOf(findings []Finding) (namespaces []string, all bool) {
	for _, f := range findings {
		for _, i := range f.Involved {
			if i.Namespace == "" {
				return nil, true
			}
			namespaces = append(namespaces, i.Namespace)
		}
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces), false
}

func checksOf(findings []Finding) []CheckID {
	var ids []CheckID
	for _, f := range findings {
		ids = append(ids, f.Check)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
