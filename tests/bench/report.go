package main

import (
	"fmt"
	"io"

	"capv-static-ip.dev/tests/bench/measure"
)

// Goals of the ratios.
const (
	injectionGoal = 1.5
	dhcpGoal      = 1.05
	// ownGoal is how many times our own share may be what it is in a pool with few bindings.
	ownGoal = 1.1
)

func (r *results) print(out io.Writer) {
	r.machine.Print(out)
	r.printTimes(out)
	if r.failed > 0 {
		fmt.Fprintf(out, "\nCreates that failed because metal3 did not bind in time, and were tried again: %d; the times above include that.\n", r.failed)
	}
	fmt.Fprintln(out)
	r.printRatios(out)
	fmt.Fprintln(out)
	r.printGrowth(out)
	fmt.Fprintln(out)
	r.printOwn(out)
	fmt.Fprintln(out)
	r.printScrape(out)
	fmt.Fprintln(out)
	r.looks.print(out)
}

func (r *results) printTimes(out io.Writer) {
	measure.Table(out, "what", "clients", "samples", "p50", "p99", "per second")
	for _, line := range []struct {
		what string
		took measure.Durations
	}{
		{"VSphereMachine, without capv-static-ip", r.plain},
		{"VSphereMachine on DHCP, with capv-static-ip", r.dhcp},
		{"bare IPClaim until bound by metal3", r.claim},
		{"VSphereMachine with an injected address", r.injected},
		{"VSphereMachine with two of one device", r.two},
		{"VSphereMachine whose first choice is full", r.chosen},
	} {
		measure.Row(out, line.what, "1", fmt.Sprint(len(line.took)), measure.MS(line.took.Median()), measure.MS(line.took.Percentile(99)), "")
	}
	for _, line := range []struct {
		what string
		took measure.Crowd
	}{
		{"bare IPClaim until bound by metal3", r.crowdClaim},
		{"VSphereMachine with an injected address", r.crowdInjected},
	} {
		measure.Row(out, line.what, fmt.Sprint(crowd), fmt.Sprint(len(line.took.Durations)),
			measure.MS(line.took.Median()), measure.MS(line.took.Percentile(99)), fmt.Sprintf("%.1f", line.took.PerSecond()))
	}
}

func (r *results) printRatios(out io.Writer) {
	measure.Table(out, "ratio", "measured", "goal", "")
	injection := measure.Ratio(r.injected.Median(), r.plain.Median()+r.claim.Median())
	dhcp := measure.Ratio(r.dhcp.Median(), r.plain.Median())
	measure.Row(out, "injection / (machine without us + bare claim), p50, 1 client", fmt.Sprintf("%.2f", injection), goal(injectionGoal), measure.AtMost(injection, injectionGoal))
	measure.Row(out, "DHCP machine with us / machine without us, p50", fmt.Sprintf("%.2f", dhcp), goal(dhcpGoal), measure.AtMost(dhcp, dhcpGoal))
	measure.Row(out, "two addresses of a device / one, p50", fmt.Sprintf("%.2f", measure.Ratio(r.two.Median(), r.injected.Median())), "none", "")
	measure.Row(out, "second choice / only choice, p50", fmt.Sprintf("%.2f", measure.Ratio(r.chosen.Median(), r.injected.Median())), "none", "")
	measure.Row(out, fmt.Sprintf("machines per second / bare claims per second, %d clients", crowd),
		fmt.Sprintf("%.2f", r.crowdInjected.PerSecond()/r.crowdClaim.PerSecond()), "none", "")
}

func goal(limit float64) string { return fmt.Sprintf("at most %.2f", limit) }

func (r *results) printGrowth(out io.Writer) {
	measure.Table(out, "bindings in the pool", "samples", "bare claim p50", "injection p50", "difference", "injection / (machine without us + bare claim)")
	for _, g := range r.growth {
		claim, injected := g.claim.Median(), g.injected.Median()
		measure.Row(out, fmt.Sprint(g.bindings), fmt.Sprint(len(g.injected)), measure.MS(claim), measure.MS(injected), measure.MS(injected-claim),
			fmt.Sprintf("%.2f", measure.Ratio(injected, r.plain.Median()+claim)))
	}
}

// printOwn tells of the own share of a create, which is small: its growth is that of few
// milliseconds, and noise weighs more in it than in what a create takes in all.
func (r *results) printOwn(out io.Writer) {
	measure.Table(out, "bindings, provider answers at once", "samples", "DHCP machine p50", "bare claim p50", "injection p50",
		"own share of a create", "growth", "goal", "", "growth of the injection")
	for _, o := range r.own {
		few := r.own[0]
		growth := measure.Ratio(o.share(), few.share())
		measure.Row(out, fmt.Sprint(o.bindings), fmt.Sprint(len(o.injected)), measure.MS(o.plain.Median()), measure.MS(o.claim.Median()), measure.MS(o.injected.Median()),
			measure.MS(o.share()), fmt.Sprintf("%.2f", growth), goal(ownGoal), measure.AtMost(growth, ownGoal),
			fmt.Sprintf("%.2f", measure.Ratio(o.injected.Median(), few.injected.Median())))
	}
}

func (r *results) printScrape(out io.Writer) {
	measure.Table(out, "scrape", "samples", "p50", "p99", "goal of p50", "")
	median := r.scrape.Median()
	measure.Row(out, fmt.Sprintf("metrics of %d addresses in %d pools, in this process", scrapedAddresses, scrapedPools), fmt.Sprint(len(r.scrape)),
		measure.MS(median), measure.MS(r.scrape.Percentile(99)), "at most "+measure.MS(scrapeGoal), measure.AtMost(median.Seconds(), scrapeGoal.Seconds()))
}

func (l looks) print(out io.Writer) {
	measure.Table(out, "kubectl static-ip pools -A", "samples", "p50", "max", "goal of p50", "", "memory at most", "goal", "")
	median := l.took.Median()
	measure.Row(out, fmt.Sprintf("%d machines in %d pools", l.machines, l.machines/perPool), fmt.Sprint(len(l.took)),
		measure.Seconds(median), measure.Seconds(l.took.Max()), "at most "+measure.Seconds(pluginGoal), measure.AtMost(median.Seconds(), pluginGoal.Seconds()),
		mebibytes(l.resident), "at most "+mebibytes(pluginMemoryGoal), measure.AtMost(l.resident, pluginMemoryGoal))
}

func mebibytes(n float64) string {
	if n == 0 {
		return "not known"
	}
	return fmt.Sprintf("%.0f MiB", n)
}
