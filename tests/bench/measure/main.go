package measure

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"capv-static-ip.dev/tests/harness"
)

// Plan measures, prints its results, and tells of its progress.
type Plan func(ctx context.Context, out, progress io.Writer) error

// Main is the main function of a benchmark of this name. With -quick, which its
// usage explains, it follows the short plan.
func Main(name, usage string, thorough, short Plan) {
	ctx, stop := harness.Lifetime()
	quick := flag.Bool("quick", false, usage)
	flag.Parse()
	run := thorough
	if *quick {
		run = short
	}
	err := run(ctx, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}
