//go:build !linux

package main

import (
	"os"
	"testing"
)

// openTerminal skips the test: how a terminal is opened is written for Linux alone.
func openTerminal(t *testing.T) *os.File {
	t.Helper()
	t.Skip("no terminal of its own here")
	return nil
}
