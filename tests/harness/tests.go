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
	withProviders(t, Fixtures, test)
}

// ForOneProvider is ForEachProvider for a test that takes minutes, and of which the
// providers see the same: before each change, this one is enough. Among the heavy tests
// it runs with all.
func ForOneProvider(t *testing.T, f Fixture, test func(t *testing.T, f Fixture)) {
	t.Helper()
	if heavy {
		withProviders(t, Fixtures, test)
		return
	}
	withProviders(t, []Fixture{f}, test)
}

func withProviders(t *testing.T, fixtures []Fixture, test func(t *testing.T, f Fixture)) {
	t.Helper()
	t.Parallel()
	for _, f := range fixtures {
		t.Run("with "+f.Name, func(t *testing.T) {
			t.Parallel()
			test(t, f)
		})
	}
}
