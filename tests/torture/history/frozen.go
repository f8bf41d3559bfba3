package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// frozen is the time in which a namespace, or a pool of it if that is named, is frozen.
type frozen struct {
	span
	namespace, pool string
}

// frozenOf are those of a history: each from the end of the operation that began it to the
// begin of the one that ended it.
func frozenOf(records []Record) []frozen {
	begun := map[place]time.Time{}
	var list []frozen
	for _, r := range records {
		if r.Op == nil {
			continue
		}
		what := place{r.Op.Namespace, r.Op.Name}
		switch {
		case r.Op.Kind == Freeze && r.Op.Phase == End && r.Op.Outcome == Done:
			begun[what] = r.Time
		case r.Op.Kind == Thaw && r.Op.Phase == Begin:
			if from, ok := begun[what]; ok {
				list = append(list, frozen{span{from, r.Time}, what.namespace, what.pool})
				delete(begun, what)
			}
		}
	}
	return list
}

// deafens tells of a fault by which a replica may not have heard for long that something is
// frozen.
func deafens(f *Fault) bool {
	return slices.ContainsFunc([]string{"late", "stall", "pause", "api-server", "etcd"}, func(part string) bool {
		return strings.Contains(f.Kind, part)
	})
}

// byHandOf are the names of what somebody deleted by hand.
func byHandOf(records []Record) map[string]bool {
	names := map[string]bool{}
	for _, r := range records {
		if r.Fault != nil && strings.HasPrefix(r.Fault.Kind, "delete-") {
			_, name, _ := strings.Cut(r.Fault.Target, " ")
			names[name] = true
		}
	}
	return names
}

// leftAlone sees that nothing is given, and nothing given back, where that is known to be frozen.
func (c *checker) leftAlone(r Record) {
	o := r.Object
	switch {
	case o.isAddress() && o.Gone && !c.byHand[o.Namespace+"/"+o.Name] && !c.byHand[o.Namespace+"/"+o.Claim]:
		if f := c.frozenAt(r, o.Pool); f != nil {
			c.thawed(f, r, fmt.Sprintf("%s (%s) is given back while %s is frozen", o, o.Addresses[0], f))
		}
	case o.Kind == Machine && !o.Gone && c.state.objects[o.key()].since.Object == o && !o.ByHand && len(o.Addresses) > 0:
		if f := c.frozenAt(r, o.Asks...); f != nil {
			c.thawed(f, r, fmt.Sprintf("%s comes with %v while %s is frozen", o, o.Addresses, f))
		}
	}
}

func (f *frozen) String() string {
	if f.pool == "" {
		return "namespace " + f.namespace
	}
	return f.pool + " of " + f.namespace
}

// frozenAt is what one of the pools is frozen by when something happens, nil if it need not be
// known.
func (c *checker) frozenAt(r Record, pools ...string) *frozen {
	for i := range c.frozen {
		f := &c.frozen[i]
		if f.namespace != r.Object.Namespace || f.pool != "" && !slices.Contains(pools, f.pool) {
			continue
		}
		known := f.from.Add(c.limits.Blind)
		deaf := slices.ContainsFunc(c.deaf, func(s span) bool { return s.overlaps(f.from, r.Time) })
		if !deaf && r.Time.After(known) && r.Time.Before(f.to) {
			return f
		}
	}
	return nil
}

func (c *checker) thawed(f *frozen, r Record, text string) {
	c.report(r.Object.UID, Violation{
		Rule: Frozen, Text: text, Addresses: r.Object.Addresses, Names: []string{r.Object.Name}, From: f.from, To: r.Time,
	})
}
