package programs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lock makes sure that only one process builds at a time. The kernel lets go
// of the lock when its holder dies.
func (b *Builder) lock(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("locking the build cache: %w", err)
	}
	path := filepath.Join(b.Cache, "build.lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the build cache: %w", err)
	}
	for waited := time.Duration(0); ; waited += lockInterval {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = file.Close()
			return nil, fmt.Errorf("locking the build cache: %w", err)
		}
		if waited == lockPatience {
			fmt.Fprintln(b.Progress, "waiting for another process that is building ...")
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("waiting for another process that is building: %w", ctx.Err())
		case <-time.After(lockInterval):
		}
	}
}

const (
	// lockInterval is how often a lock that is held is tried: a blocking call
	// could not be given up when the context ends.
	lockInterval = 50 * time.Millisecond
	// lockPatience is how long the wait for a lock goes without mention.
	lockPatience = 20 * lockInterval
)
