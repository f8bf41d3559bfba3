//go:build heavy

package harness

// heavy says that the heavy tests are built, too.
const heavy = true
