package main

import (
	"fmt"
	"io"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
)

func (r *results) print(out io.Writer) {
	r.machine.Print(out)
	measure.PrintFindings(out, r.findings())
	if r.failed > 0 {
		fmt.Fprintf(out, "\nCreates that failed because a provider did not bind in time, and were tried again: %d; the times include that.\n", r.failed)
	}
	fmt.Fprintln(out)
	r.printAlone(out)
	fmt.Fprintln(out)
	r.printBursts(out)
	fmt.Fprintln(out)
	r.printGrowth(out)
	fmt.Fprintln(out)
	r.printOwn(out)
}

func (r *results) printAlone(out io.Writer) {
	measure.Table(out, "1 client", "way", "samples", "p50", "p90", "p99")
	for _, way := range r.ways {
		for _, line := range []struct {
			what string
			took measure.Durations
		}{
			{"VSphereMachine, without capv-static-ip", way.plain},
			{"VSphereMachine on DHCP, with capv-static-ip", way.dhcp},
			{"bare claim until bound", way.claim},
			{"VSphereMachine with an injected address", way.injected},
			{"VSphereMachine with two of one device", way.two},
			{"VSphereMachine whose first choice is full", way.chosen},
		} {
			if len(line.took) > 0 {
				measure.Row(out, line.what, way.name, fmt.Sprint(len(line.took)), measure.MS(line.took.Median()), measure.MS(line.took.Percentile(90)), measure.MS(line.took.Percentile(99)))
			}
		}
	}
}

func (r *results) printBursts(out io.Writer) {
	measure.Table(out, fmt.Sprintf("burst by %d clients", measure.Clients), "way", "of", "per second", "p50", "p99", "max", "failed, tried again",
		"processor for each", "the manager's share, all bound", "all bound and adopted after")
	for _, way := range r.ways {
		for _, b := range way.bursts {
			way.printBurst(out, fmt.Sprint(b.size), b)
		}
		for _, b := range way.throttled {
			way.printBurst(out, fmt.Sprintf("%d, metal3 with its own limit", b.size), b)
		}
	}
}

func (r *result) printBurst(out io.Writer, size string, of *bursts) {
	for _, kind := range []struct {
		name string
		burst
	}{{"bare claims", of.claims}, {"machines", of.machines}} {
		count := len(kind.Durations)
		if count == 0 {
			continue
		}
		manager, settled := "", ""
		if kind.settled > 0 {
			rounds := float64(count) / float64(of.size)
			manager, settled = measure.MS(kind.manager/time.Duration(count)), measure.Seconds(time.Duration(float64(kind.settled)/rounds))
		}
		measure.Row(out, size, r.name, kind.name, fmt.Sprintf("%.1f", kind.PerSecond()), measure.MS(kind.Median()), measure.MS(kind.Percentile(99)), measure.MS(kind.Max()),
			fmt.Sprint(kind.failed), measure.MS(kind.used.total()/time.Duration(count)), manager, settled)
	}
}

func (r *results) printGrowth(out io.Writer) {
	measure.Table(out, "machines with addresses of the pool", "way", "samples", "bare claim p50", "injection p50", "p90", "difference", "RSS", "at most", "start until Ready")
	for _, way := range r.ways {
		for _, g := range way.growth {
			claim, injected := g.claim.Median(), g.injected.Median()
			measure.Row(out, fmt.Sprint(g.bindings), way.name, fmt.Sprint(len(g.injected)), measure.MS(claim), measure.MS(injected), measure.MS(g.injected.Percentile(90)),
				measure.MS(injected-claim), mebibytes(mebi(g.resident)), mebibytes(mebi(g.peak)), measure.Seconds(g.starts.Median()))
		}
	}
}

// printOwn tells of the own share of a create, which is small: its growth is that of few
// milliseconds, and noise weighs more in it than in what a create takes in all.
func (r *results) printOwn(out io.Writer) {
	measure.Table(out, "bindings, provider answers at once", "samples", "DHCP machine p50", "bare claim p50", "injection p50", "own share of a create")
	for _, o := range r.own {
		measure.Row(out, fmt.Sprint(o.bindings), fmt.Sprint(len(o.injected)), measure.MS(o.plain.Median()), measure.MS(o.claim.Median()), measure.MS(o.injected.Median()),
			measure.MS(o.share()))
	}
}

func mebibytes(n float64) string {
	if n == 0 {
		return "not known"
	}
	return fmt.Sprintf("%.0f MiB", n)
}
