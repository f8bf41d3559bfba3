package e2e

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// renewInterval is how often cert-manager renews the serving certificate of the
// second stack.
const renewInterval = 10 * time.Second

// second is a management cluster beside the shared one, with the same vCenter:
// for tests that move from one to the other, or kill what others rely upon. It
// is started by the first test that needs it.
var second struct {
	start, install sync.Once
	stack          *stack.Stack
	err            error
	// isInstalled tells whether capv-static-ip was.
	isInstalled bool
}

// secondStack starts the second stack if it does not run. The serving
// certificate is renewed all the time, whatever is tested.
func secondStack(t *testing.T) *stack.Stack {
	t.Helper()
	on := bareSecondStack(t)
	second.install.Do(func() {
		second.isInstalled = true
		second.err = on.Install(context.WithoutCancel(t.Context()))
	})
	if second.err != nil {
		t.Fatal(second.err)
	}
	return on
}

// bareSecondStack is the second stack without capv-static-ip, as long as no test has asked for
// it with that.
func bareSecondStack(t *testing.T) *stack.Stack {
	t.Helper()
	second.start.Do(func() {
		began := time.Now()
		options := stackOptions()
		options.VCenter = shared.VCenter
		options.WithoutKubeadm, options.WithoutManager = true, true
		options.Renewal = harness.Renewal{Duration: time.Hour, RenewBefore: time.Hour - renewInterval}
		// It ends with all tests, see stopSecond, not with the one that began it.
		second.stack, second.err = stack.Start(context.WithoutCancel(t.Context()), options)
		fmt.Printf("second stack started in %s\n", time.Since(began).Round(time.Millisecond))
	})
	if second.err != nil {
		t.Fatal(second.err)
	}
	return second.stack
}

// stopSecond stops the second stack if one was started, and prints the ends of
// its logs if a test failed.
func stopSecond(failed bool) error {
	if second.stack == nil {
		return nil
	}
	if failed {
		second.stack.Plane.DumpLogs(os.Stderr, 40)
	}
	return second.stack.Stop()
}
