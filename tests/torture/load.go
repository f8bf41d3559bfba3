package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"capv-static-ip.dev/tests/torture/history"
)

const (
	// nap is how long somebody sleeps to see how much later it wakes up.
	nap = 50 * time.Millisecond
	// loadInterval is how often it is told how much later that was at the worst.
	loadInterval = 5 * time.Second
)

// followLoad writes into the history how busy the machine is, until the context ends: what
// took too long may have had no chance.
func followLoad(ctx context.Context, to *history.Writer) {
	for ctx.Err() == nil {
		var load history.Load
		for end := time.Now().Add(loadInterval); ctx.Err() == nil && time.Now().Before(end); {
			began := time.Now()
			wait(ctx, nap)
			load.Late = max(load.Late, time.Since(began)-nap)
		}
		load.Waiting = waiting()
		to.Write(history.Record{Load: &load})
	}
}

// waiting is the kernel's count, 0 where it tells none.
func waiting() float64 {
	var count float64
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(text), &count)
	}
	return count
}
