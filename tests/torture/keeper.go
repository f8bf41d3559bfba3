package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"capv-static-ip.dev/tests/harness"
)

const (
	// lookInterval is how often it is looked whether a program has ended.
	lookInterval = 200 * time.Millisecond
	// startTimeout is how long a program may take until it is ready, on a machine that is
	// busy with everything else.
	startTimeout = 2 * time.Minute
)

// kept is a program that is started again when it ends, as a kubelet does.
type kept struct {
	name    string
	process *harness.Process
	start   func(context.Context) error
	// stop asks it to end. A replica stops taking requests first, as in a rolling update.
	stop func() error
	// mu is held by whoever stops the program on purpose, or starts it.
	mu sync.Mutex
}

func keep(process *harness.Process) *kept {
	return &kept{name: process.Name, process: process, start: process.Start, stop: process.Stop}
}

// watch starts the program whenever it has ended, and nobody has stopped it on purpose.
func (k *kept) watch(ctx context.Context, log io.Writer) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if k.process.Running() || !k.mu.TryLock() {
			continue
		}
		if err := k.run(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(log, err)
		}
		k.mu.Unlock()
	}
}

// run starts the program if it does not run.
func (k *kept) run(ctx context.Context) error {
	if k.process.Running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return k.start(ctx)
}

// down kills the program, without any warning or after asking it, for a while.
func (k *kept) down(ctx context.Context, gently bool, during time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if gently {
		// What it says on its way out is in its log.
		_ = k.stop()
	} else {
		k.process.Kill()
	}
	wait(ctx, during)
	return k.run(context.WithoutCancel(ctx))
}

// pause freezes the program for a while.
func (k *kept) pause(ctx context.Context, during time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.process.Pause()
	wait(ctx, during)
	k.process.Resume()
}

// wait returns after a while, or when the context ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
