// Command torture runs a whole management cluster with a simulated vCenter, lets workers
// make, change and delete machines in pools that are nearly full, and breaks whatever they
// rely on meanwhile. All that happens goes to a history, from which it is then proved that
// no address was in two machines, freed too soon or left, that no deletion is wedged, and
// that every machine was served that could be. See the package history for that.
//
//	make torture
//	make torture MINUTES=5 SEED=42 TORTUREFLAGS='-workers 8 -faults kill-leader,kill-metal3'
//	make torture CHECK=history.jsonl
//
// What a worker or the nemesis does next follows from the seed. When it happens does not,
// so a run is repeated by its seed as far as programs that run beside each other can be.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

// options are the flags.
type options struct {
	minutes, workers int
	seed             uint64
	// faults are those to choose from; all if empty.
	faults []string
	// path is where the history goes.
	path string
	// check is a history to look at, instead of a run.
	check string
	// clocks has the managers built with clocks that can be wrong.
	clocks bool
	// moves has a Cluster moved to another management cluster and back.
	moves bool
	// migrations has addresses moved from pool to pool.
	migrations bool
	// args are more flags for the managers.
	args []string
}

// errViolated is returned when something happened which must not.
var errViolated = errors.New("something happened which must not")

func main() {
	ctx, stop := harness.Lifetime()
	err := run(ctx, parse())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	var faults, args string
	flag.IntVar(&o.minutes, "minutes", 60, "for how long to go on, without the start and the end")
	flag.IntVar(&o.workers, "workers", 16, "how many make and delete machines")
	flag.Uint64Var(&o.seed, "seed", 0, "what decides what is done; by chance if 0")
	flag.StringVar(&faults, "faults", "", "the faults to choose from, separated by commas; all if empty")
	flag.StringVar(&o.path, "history", "", "the file for the history; one for the seed in the folder for temporary files if empty")
	flag.StringVar(&o.check, "check", "", "a history to look at again, instead of a run")
	flag.BoolVar(&o.clocks, "clocks", true, "build the managers with clocks that can be wrong; takes some minutes the first time")
	flag.BoolVar(&o.moves, "moves", true, "move a Cluster to another management cluster and back")
	flag.BoolVar(&o.migrations, "migrations", true, "move addresses of machines from pool to pool with kubectl static-ip migrate")
	flag.StringVar(&args, "manager-args", "", "more flags for the managers, separated by spaces")
	flag.Parse()
	o.args = strings.Fields(args)
	if o.seed == 0 {
		o.seed = rand.Uint64()>>32 + 1
	}
	if o.path == "" {
		o.path = filepath.Join(os.TempDir(), fmt.Sprintf("torture-%d.jsonl", o.seed))
	}
	if faults != "" {
		o.faults = strings.Split(faults, ",")
	}
	return o
}

func run(ctx context.Context, o options) error {
	if o.check != "" {
		return judge(os.Stdout, o.check)
	}
	fmt.Printf("seed %d: %d minutes, %d workers, addresses of metal3's pools by %s\n", o.seed, o.minutes, o.workers, metal3Allocation())
	return torture(ctx, o)
}

// metal3Allocation is how the managers are told, by the harness, to ask for addresses of
// metal3's pools.
func metal3Allocation() string { return cmp.Or(os.Getenv("METAL3_ALLOCATION"), "claim") }

// judge checks a history and prints what was in it.
func judge(to io.Writer, path string) error {
	records, err := history.ReadFile(path)
	if err != nil {
		return err
	}
	found := history.Check(records, history.DefaultLimits())
	seed := uint64(0)
	if len(records) > 0 && records[0].Run != nil {
		seed = records[0].Run.Seed
	}
	for i, v := range found.Violations {
		fmt.Fprintf(to, "\nviolation %d of %d, seed %d\n", i+1, len(found.Violations), seed)
		history.Explain(to, records, v)
	}
	history.Summarize(records).Print(to, found)
	fmt.Fprintf(to, "history: %s, seed: %d\n", path, seed)
	if count := len(found.Violations); count > 0 {
		return fmt.Errorf("%w: %d violations, seed %d", errViolated, count, seed)
	}
	return nil
}
