package limit_test

import (
	"testing"
	"time"

	"capv-static-ip.dev/allocator/limit"
)

func TestWhatFailedOftenIsTriedAgainSoon(t *testing.T) {
	failures := limit.Failures[string]()
	last := time.Duration(0)
	for range 100 {
		wait := failures.When("item")
		if wait < last {
			t.Errorf("it waits %s after it had waited %s", wait, last)
		}
		last = wait
	}
	if last != limit.LastRetry {
		t.Errorf("it waits %s, want %s", last, limit.LastRetry)
	}
}
