package main

import (
	"os"
	"syscall"
)

// mebibytesOf is the most memory that a process that has ended took.
func mebibytesOf(state *os.ProcessState) float64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return float64(usage.Maxrss) / 1024
}
