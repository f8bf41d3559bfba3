package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

// Goals of the ratios.
const (
	injectionGoal = 1.5
	dhcpGoal      = 1.05
)

// machine is what the numbers were measured on.
type machine struct {
	model, load string
	cores       int
}

func thisMachine() machine {
	m := machine{model: runtime.GOARCH, load: "unknown", cores: runtime.NumCPU()}
	if content, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.model = cpuModel(string(content), m.model)
	}
	if content, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.load, _, _ = strings.Cut(string(content), " ")
	}
	return m
}

func cpuModel(cpuinfo, otherwise string) string {
	for line := range strings.Lines(cpuinfo) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return otherwise
}

func (r *results) print(out io.Writer) {
	fmt.Fprintf(out, "\nMachine: %d cores, %s; %s; load when it began: %s\n\n",
		r.machine.cores, r.machine.model, runtime.Version(), r.machine.load)
	r.printTimes(out)
	if r.failed > 0 {
		fmt.Fprintf(out, "\nCreates that failed because metal3 did not bind in time, and were tried again: %d; the times above include that.\n", r.failed)
	}
	fmt.Fprintln(out)
	r.printRatios(out)
	fmt.Fprintln(out)
	r.printGrowth(out)
}

func (r *results) printTimes(out io.Writer) {
	table(out, "what", "clients", "samples", "p50", "p99", "per second")
	for _, line := range []struct {
		what string
		took durations
	}{
		{"VSphereMachine, without capv-static-ip", r.plain},
		{"VSphereMachine on DHCP, with capv-static-ip", r.dhcp},
		{"bare IPClaim until bound by metal3", r.claim},
		{"VSphereMachine with an injected address", r.injected},
	} {
		row(out, line.what, "1", fmt.Sprint(len(line.took)), ms(line.took.median()), ms(line.took.percentile(99)), "")
	}
	for _, line := range []struct {
		what string
		took crowded
	}{
		{"bare IPClaim until bound by metal3", r.crowdClaim},
		{"VSphereMachine with an injected address", r.crowdInjected},
	} {
		row(out, line.what, fmt.Sprint(crowd), fmt.Sprint(len(line.took.durations)),
			ms(line.took.median()), ms(line.took.percentile(99)), fmt.Sprintf("%.1f", line.took.perSecond()))
	}
}

func (r *results) printRatios(out io.Writer) {
	table(out, "ratio", "measured", "goal", "")
	injection := ratio(r.injected.median(), r.plain.median()+r.claim.median())
	dhcp := ratio(r.dhcp.median(), r.plain.median())
	row(out, "injection / (machine without us + bare claim), p50, 1 client", fmt.Sprintf("%.2f", injection), goal(injectionGoal), verdict(injection, injectionGoal))
	row(out, "DHCP machine with us / machine without us, p50", fmt.Sprintf("%.2f", dhcp), goal(dhcpGoal), verdict(dhcp, dhcpGoal))
	row(out, fmt.Sprintf("machines per second / bare claims per second, %d clients", crowd),
		fmt.Sprintf("%.2f", r.crowdInjected.perSecond()/r.crowdClaim.perSecond()), "none", "")
}

func goal(limit float64) string { return fmt.Sprintf("at most %.2f", limit) }

func verdict(measured, limit float64) string {
	if measured <= limit {
		return "met"
	}
	return "MISSED"
}

func (r *results) printGrowth(out io.Writer) {
	table(out, "bindings in the pool", "samples", "bare claim p50", "injection p50", "difference", "injection / (machine without us + bare claim)")
	for _, g := range r.growth {
		claim, injected := g.claim.median(), g.injected.median()
		row(out, fmt.Sprint(g.bindings), fmt.Sprint(len(g.injected)), ms(claim), ms(injected), ms(injected-claim),
			fmt.Sprintf("%.2f", ratio(injected, r.plain.median()+claim)))
	}
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

func table(out io.Writer, heads ...string) {
	row(out, heads...)
	fmt.Fprintln(out, "|"+strings.Repeat(" --- |", len(heads)))
}

func row(out io.Writer, cells ...string) {
	fmt.Fprintln(out, "| "+strings.Join(cells, " | ")+" |")
}

// progress says what goes on, and how long it took.
type progress struct {
	out   io.Writer
	start time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out} }

func (p *progress) begin(title string) {
	p.start = time.Now()
	fmt.Fprintf(p.out, "%s ", title)
}

func (p *progress) tick() { fmt.Fprint(p.out, ".") }

func (p *progress) done() {
	fmt.Fprintf(p.out, " %s\n", time.Since(p.start).Round(100*time.Millisecond))
}

// Write takes the progress of the harness, whole lines each.
func (p *progress) Write(content []byte) (int, error) {
	for line := range bytes.Lines(content) {
		fmt.Fprintf(p.out, "\n  %s", bytes.TrimRight(line, "\n"))
	}
	return len(content), nil
}
