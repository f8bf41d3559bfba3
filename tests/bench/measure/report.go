package measure

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

// Machine is what the numbers were measured on.
type Machine struct {
	Model, Load string
	Cores       int
}

// ThisMachine is the one that runs this, with its load at this moment.
func ThisMachine() Machine {
	m := Machine{Model: runtime.GOARCH, Load: "unknown", Cores: runtime.NumCPU()}
	if content, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.Model = cpuModel(string(content), m.Model)
	}
	if content, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(content), " ")
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

// Print says what the machine is.
func (m Machine) Print(out io.Writer) {
	fmt.Fprintf(out, "\nMachine: %d cores, %s; %s; load when it began: %s\n\n", m.Cores, m.Model, runtime.Version(), m.Load)
}

// MS is a duration in milliseconds.
func MS(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// Seconds is a duration in seconds.
func Seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// AtMost says whether a goal was met.
func AtMost(measured, limit float64) string { return verdict(measured <= limit) }

// AtLeast says whether a goal was met.
func AtLeast(measured, limit float64) string { return verdict(measured >= limit) }

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

// Table prints the head of a table.
func Table(out io.Writer, heads ...string) {
	Row(out, heads...)
	fmt.Fprintln(out, "|"+strings.Repeat(" --- |", len(heads)))
}

// Row prints a row of a table.
func Row(out io.Writer, cells ...string) {
	fmt.Fprintln(out, "| "+strings.Join(cells, " | ")+" |")
}

// Progress says what goes on, and how long it took.
type Progress struct {
	out   io.Writer
	start time.Time
}

// NewProgress makes a Progress that writes there.
func NewProgress(out io.Writer) *Progress { return &Progress{out: out} }

// Begin names what begins.
func (p *Progress) Begin(title string) {
	p.start = time.Now()
	fmt.Fprintf(p.out, "%s ", title)
}

// Tick shows that it goes on.
func (p *Progress) Tick() { fmt.Fprint(p.out, ".") }

// Done says how long it took.
func (p *Progress) Done() {
	fmt.Fprintf(p.out, " %s\n", time.Since(p.start).Round(100*time.Millisecond))
}

// Write takes the progress of the harness, whole lines each.
func (p *Progress) Write(content []byte) (int, error) {
	for line := range bytes.Lines(content) {
		fmt.Fprintf(p.out, "\n  %s", bytes.TrimRight(line, "\n"))
	}
	return len(content), nil
}
