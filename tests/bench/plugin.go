package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

const (
	// pluginGoal is how long kubectl static-ip pools -A may take for 10,000 machines, and
	// pluginMemoryGoal how much memory, in MiB.
	pluginGoal, pluginMemoryGoal = 5 * time.Second, 300.0
)

// looks are what it takes to look at many machines with the plugin.
type looks struct {
	machines int
	took     measure.Durations
	// resident is the most memory that a look took, in MiB, 0 if that is not known.
	resident float64
}

// look measures kubectl static-ip pools -A on a control plane with this many machines, which
// has nothing else to do: neither providers nor managers run.
func (b *bench) look(ctx context.Context, machines, count int) (looks, error) {
	program, err := harness.BuildPlugin(ctx, b.plane.Root(), b.plane.Dir)
	if err != nil {
		return looks{}, err
	}
	found := looks{machines: machines}
	for range count {
		cmd := exec.CommandContext(ctx, program, "pools", "-A", "--kubeconfig", b.plane.Kubeconfig)
		cmd.Env = append(os.Environ(), "HOME="+b.plane.Dir)
		start := time.Now()
		output, err := cmd.CombinedOutput()
		took := time.Since(start)
		if err != nil {
			return looks{}, fmt.Errorf("looking at %d machines: %w\n%s", machines, err, output)
		}
		if rows := strings.Count(string(output), "\n"); rows < 1+b.networks-firstNetwork {
			return looks{}, fmt.Errorf("looking at %d machines: there are %d rows\n%s", machines, rows, output)
		}
		found.took = append(found.took, took)
		found.resident = max(found.resident, mebibytesOf(cmd.ProcessState))
	}
	return found, nil
}
