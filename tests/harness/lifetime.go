package harness

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// parentInterval is how often a program looks whether its parent is still there.
const parentInterval = time.Second

// Lifetime returns a context for a program that starts a control plane, as the demo
// does. It ends when the program is to stop: by a signal, when its terminal is
// closed, or when the process that started it has gone, which it must not outlive.
// The last is for `go run`, which dies of a signal without passing it on.
func Lifetime() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	parent := os.Getppid()
	go func() {
		ticker := time.NewTicker(parentInterval)
		defer ticker.Stop()
		for os.Getppid() == parent {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
		stop()
	}()
	return ctx, stop
}
