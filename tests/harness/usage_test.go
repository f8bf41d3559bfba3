package harness

import (
	"testing"
	"time"
)

func TestProcessorTimeIsThatOfUserAndKernel(t *testing.T) {
	t.Parallel()
	const stat = "42 (a (very) odd) name) S 1 42 42 0 -1 4194560 100 200 0 0 150 25 900 900 20 0 8 0 1000 1 2"
	got, err := cpuTime([]byte(stat))
	if err != nil || got != 1750*time.Millisecond {
		t.Errorf("got %s and error %v, want 1.75s", got, err)
	}
	for _, broken := range []string{"", "42 (name", "42 (name) S 1 2", "42 (n) S 1 42 42 0 -1 4194560 100 200 0 0 x 25 0"} {
		if got, err := cpuTime([]byte(broken)); err == nil {
			t.Errorf("%q was read as %s", broken, got)
		}
	}
}
