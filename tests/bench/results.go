package main

import (
	"slices"

	"capv-static-ip.dev/tests/bench/measure"
)

// results is all that was measured.
type results struct {
	machine measure.Machine
	ways    []*result
	own     []own
	// failed is how often a create failed for want of time, and was tried again.
	failed int64
	// scrape is what it takes to tell of scrapedAddresses addresses.
	scrape measure.Durations
	looks  looks
}

// result is what was measured in one way.
type result struct {
	*way
	alone
	cost   cost
	growth []*growth
	// bursts are by many clients, and throttled are those with metal3's own limit.
	bursts, throttled []*bursts
	killed, stopped   failover
}

// isUsual tells whether it is the way in which a manager works with metal3 that is told nothing.
func (r *result) isUsual() bool { return r.name == ways()[0].name }

func (r *result) burstsOf(size int) *bursts {
	if i := slices.IndexFunc(r.bursts, func(b *bursts) bool { return b.size == size }); i >= 0 {
		return r.bursts[i]
	}
	r.bursts = append(r.bursts, &bursts{size: size})
	return r.bursts[len(r.bursts)-1]
}

func (r *result) growthOf(bindings int) *growth {
	if i := slices.IndexFunc(r.growth, func(g *growth) bool { return g.bindings == bindings }); i >= 0 {
		return r.growth[i]
	}
	r.growth = append(r.growth, &growth{bindings: bindings})
	return r.growth[len(r.growth)-1]
}
