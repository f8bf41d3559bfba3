package inventory

import (
	"maps"
	"math/big"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Run is an address that somebody has, or a run of addresses that nobody has.
type Run struct {
	First, Last netip.Addr
	State       State
	// Number is how many addresses it has.
	Number *big.Int
	// Holding is who has the address, nil for a run of those that nobody has.
	Holding *Holding
}

// Ranges are the addresses that a pool may hand out, those it gives nobody among them; nil
// if it does not say.
func (p *Pool) Ranges() []netipx.IPRange {
	all, _, ok := p.ranges()
	if !ok {
		return nil
	}
	return all.Ranges()
}

// Runs are all addresses of a pool in their order, those that nobody has folded. Of a pool
// that does not say which addresses it has, only those that somebody has are known.
func (g *Graph) Runs(p *Pool) []Run {
	holdings := g.Holdings(p)
	runs := make([]Run, 0, 2*len(holdings))
	var held netipx.IPSetBuilder
	for i := range holdings {
		h := &holdings[i]
		held.Add(h.IP)
		runs = append(runs, Run{First: h.IP, Last: h.IP, State: h.State, Number: big.NewInt(1), Holding: h})
	}
	if all, reserved, ok := p.ranges(); ok {
		taken, _ := held.IPSet()
		runs = append(runs, runsOf(Reserved, reserved, taken)...)
		runs = append(runs, runsOf(Free, all, taken, reserved)...)
	}
	slices.SortFunc(runs, func(a, b Run) int { return a.First.Compare(b.First) })
	return runs
}

// RunsWith are Runs in which each of these addresses that nobody has is one of its own.
func (g *Graph) RunsWith(p *Pool, alone map[netip.Addr]string) []Run {
	runs := g.Runs(p)
	for _, ip := range slices.SortedFunc(maps.Keys(alone), netip.Addr.Compare) {
		i, found := slices.BinarySearchFunc(runs, ip, func(r Run, ip netip.Addr) int {
			if r.First.Compare(ip) <= 0 && ip.Compare(r.Last) <= 0 {
				return 0
			}
			return r.First.Compare(ip)
		})
		switch {
		case !found:
			runs = slices.Insert(runs, i, Run{First: ip, Last: ip, State: Outside, Number: big.NewInt(1)})
		case runs[i].Holding == nil:
			runs = slices.Replace(runs, i, i+1, runs[i].SplitAt(ip)...)
		}
	}
	return runs
}

// runsOf are the runs of a set without those of others.
func runsOf(state State, set *netipx.IPSet, without ...*netipx.IPSet) []Run {
	var rest netipx.IPSetBuilder
	rest.AddSet(set)
	for _, other := range without {
		rest.RemoveSet(other)
	}
	left, _ := rest.IPSet()
	var runs []Run
	for _, r := range left.Ranges() {
		runs = append(runs, Run{First: r.From(), Last: r.To(), State: state, Number: sizeOfRange(r)})
	}
	return runs
}

// SplitAt are the run's parts: what is before an address of it, the address, and the rest.
func (r Run) SplitAt(ip netip.Addr) []Run {
	part := func(first, last netip.Addr) Run {
		return Run{First: first, Last: last, State: r.State, Holding: r.Holding, Number: sizeOfRange(netipx.IPRangeFrom(first, last))}
	}
	var parts []Run
	if r.First != ip {
		parts = append(parts, part(r.First, ip.Prev()))
	}
	parts = append(parts, part(ip, ip))
	if r.Last != ip {
		parts = append(parts, part(ip.Next(), r.Last))
	}
	return parts
}
