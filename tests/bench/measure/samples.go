// Package measure has what all benchmarks share: samples, tables, the machine
// that was measured on, and progress.
package measure

import (
	"math"
	"slices"
	"time"
)

// Durations are samples of one measurement.
type Durations []time.Duration

// Percentile returns the least sample that p percent are not above.
func (d Durations) Percentile(p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Median is the 50th percentile.
func (d Durations) Median() time.Duration { return d.Percentile(50) }

// Max is the longest sample.
func (d Durations) Max() time.Duration { return d.Percentile(100) }

// Ratio divides.
func Ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
