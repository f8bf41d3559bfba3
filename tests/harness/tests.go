package harness

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// atOnce is how many tests run at once, unless -parallel says how many. It is more
// than there are processors: they wait most of the time, for controllers and for
// grace periods.
const atOnce = "6"

// RunTests is the TestMain of a package whose tests share what run starts, and what
// it has to stop before it returns. An interrupt ends the context.
func RunTests(run func(context.Context) (int, error)) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	allowWaiting()
	code, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func allowWaiting() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if parallel := flag.Lookup("test.parallel"); parallel != nil && !given {
		_ = parallel.Value.Set(atOnce)
	}
}

// ForEachProvider runs a test with each IPAM provider, side by side with each other
// and with other tests.
func ForEachProvider(t *testing.T, test func(t *testing.T, f Fixture)) {
	t.Helper()
	t.Parallel()
	for _, f := range Fixtures {
		t.Run("with "+f.Name, func(t *testing.T) {
			t.Parallel()
			test(t, f)
		})
	}
}
