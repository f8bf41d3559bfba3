//go:build !heavy

package harness

const heavy = false
