package harness

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"
)

var (
	peak     = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)
	resident = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)
)

// PeakMemory is the most that the process has had in memory so far, in bytes.
// This is what a limit counts, so no container is needed to see whether the
// manager would have been killed. Linux alone tells it.
func (p *Process) PeakMemory() (int64, error) { return p.memory(peak) }

// ResidentMemory is what the process has in memory now, in bytes. Linux alone tells it.
func (p *Process) ResidentMemory() (int64, error) { return p.memory(resident) }

func (p *Process) memory(of *regexp.Regexp) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.Name, err)
	}
	match := of.FindSubmatch(status)
	if match == nil {
		return 0, fmt.Errorf("reading the memory of %s: the system does not tell it", p.Name)
	}
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	return kib << 10, err
}

// tick is the unit in which Linux counts the time of processors for programs: 100 a second,
// whatever the kernel was built with.
const tick = 10 * time.Millisecond

// CPUTime is for how long the process has kept a processor busy. Linux alone tells it.
func (p *Process) CPUTime() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of %s: %w", p.Name, err)
	}
	spent, err := cpuTime(stat)
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of %s: %w", p.Name, err)
	}
	return spent, nil
}

// cpuTime reads what /proc has of a process: its name, which may contain anything, is in
// parentheses; the 12th and 13th field after it are the time in user mode and in the kernel.
func cpuTime(stat []byte) (time.Duration, error) {
	_, rest, found := cutLast(stat, ')')
	fields := bytes.Fields(rest)
	if !found || len(fields) < 13 {
		return 0, fmt.Errorf("%q is not what Linux has of a process", stat)
	}
	var spent time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading ticks: %w", err)
		}
		spent += time.Duration(ticks) * tick
	}
	return spent, nil
}

func cutLast(text []byte, separator byte) (before, after []byte, found bool) {
	i := bytes.LastIndexByte(text, separator)
	if i < 0 {
		return text, nil, false
	}
	return text[:i], text[i+1:], true
}
