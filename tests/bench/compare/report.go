package main

import (
	"fmt"
	"io"

	"capv-static-ip.dev/tests/bench/measure"
)

// goals are what we aim at, by the number of machines: how many times
// sooner than CAPV's own way the address is readable, and the most of its time
// that it may take until the address is in the metadata.
var goals = map[int]struct{ readable, metadata float64 }{
	3:  {150, 1},
	30: {300, 0.8},
}

// results is all that was measured.
type results struct {
	machine    measure.Machine
	provisions []*provision
	bursts     []burst
}

// provision is what was measured of one contender.
type provision struct {
	times
	contender string
	machines  int
	limited   bool
}

// burst is what was measured of one contender.
type burst struct {
	contender
	count            int
	claims, machines measure.Crowd
	failed           int64
}

func (r *results) of(contender string, machines int, limited bool) *provision {
	for _, p := range r.provisions {
		if p.contender == contender && p.machines == machines && p.limited == limited {
			return p
		}
	}
	p := &provision{contender: contender, machines: machines, limited: limited}
	r.provisions = append(r.provisions, p)
	return p
}

// native is the measurement that another one is compared with.
func (r *results) native(p *provision) *provision {
	return r.of(native, p.machines, p.limited)
}

func (r *results) print(out io.Writer) {
	r.machine.Print(out)
	measure.Table(out, "machines in a row", "rate limit", "way", "samples", "readable p50", "max", "in the metadata p50", "max", "Ready p50", "max")
	for _, p := range r.provisions {
		measure.Row(out, fmt.Sprint(p.machines), onOff(p.limited), p.contender, fmt.Sprint(len(p.readable)),
			measure.Seconds(p.readable.Median()), measure.Seconds(p.readable.Max()),
			measure.Seconds(p.metadata.Median()), measure.Seconds(p.metadata.Max()),
			measure.Seconds(p.ready.Median()), measure.Seconds(p.ready.Max()))
	}
	fmt.Fprintln(out)
	r.printRatios(out)
	fmt.Fprintln(out)
	r.printBursts(out)
}

func (r *results) printRatios(out io.Writer) {
	measure.Table(out, "machines in a row", "rate limit", "way", "readable, times sooner, p50", "goal", "metadata, part of the time, p50", "goal", "Ready, part of the time, p50")
	for _, p := range r.provisions {
		native := r.native(p)
		if p == native {
			continue
		}
		readable := measure.Ratio(native.readable.Median(), p.readable.Median())
		metadata := measure.Ratio(p.metadata.Median(), native.metadata.Median())
		sooner, part := "", ""
		if goal, ok := goals[p.machines]; ok && p.limited {
			sooner = fmt.Sprintf("at least %.0f: %s", goal.readable, measure.AtLeast(readable, goal.readable))
			part = fmt.Sprintf("at most %.1f: %s", goal.metadata, measure.AtMost(metadata, goal.metadata))
		}
		measure.Row(out, fmt.Sprint(p.machines), onOff(p.limited), p.contender, fmt.Sprintf("%.0f", readable), sooner,
			fmt.Sprintf("%.2f", metadata), part, fmt.Sprintf("%.2f", measure.Ratio(p.ready.Median(), native.ready.Median())))
	}
}

func (r *results) printBursts(out io.Writer) {
	measure.Table(out, "burst", "way", "claims per second", "machines per second", "ratio", "goal", "", "creates that failed", "create p50", "max")
	for _, b := range r.bursts {
		rate, goal := b.machines.PerSecond()/b.claims.PerSecond(), measure.Goal{Limit: b.rate, Least: true}
		measure.Row(out, fmt.Sprintf("%d by %d clients", b.count, measure.Clients), b.name,
			fmt.Sprintf("%.1f", b.claims.PerSecond()), fmt.Sprintf("%.1f", b.machines.PerSecond()), fmt.Sprintf("%.2f", rate),
			goal.String(), goal.Verdict(rate), fmt.Sprint(b.failed), measure.MS(b.machines.Median()), measure.MS(b.machines.Max()))
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
