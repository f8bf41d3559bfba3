//go:build !linux

package main

import (
	"os"
	"time"
)

// mebibytesOf is not known here.
func mebibytesOf(*os.ProcessState) float64 { return 0 }

// ownTime is not known here.
func ownTime() time.Duration { return 0 }
