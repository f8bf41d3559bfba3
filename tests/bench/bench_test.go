package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
)

func TestReportComparesWithTheGoals(t *testing.T) {
	t.Parallel()
	r := &results{
		machine:       measure.Machine{Model: "some CPU", Load: "0.10", Cores: 2},
		plain:         measure.Durations{4 * time.Millisecond},
		dhcp:          measure.Durations{5 * time.Millisecond},
		claim:         measure.Durations{16 * time.Millisecond},
		injected:      measure.Durations{28 * time.Millisecond},
		two:           measure.Durations{42 * time.Millisecond},
		chosen:        measure.Durations{35 * time.Millisecond},
		crowdClaim:    measure.Crowd{Durations: make(measure.Durations, 80), Wall: 2 * time.Second},
		crowdInjected: measure.Crowd{Durations: make(measure.Durations, 80), Wall: 4 * time.Second},
		growth:        []growth{{1000, measure.Durations{20 * time.Millisecond}, measure.Durations{30 * time.Millisecond}}},
		scrape:        measure.Durations{60 * time.Millisecond},
		looks:         looks{machines: 10000, took: measure.Durations{6 * time.Second}, resident: 250},
	}
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{
		"2 cores, some CPU",
		"| VSphereMachine with an injected address | 1 | 1 | 28.0 ms | 28.0 ms |",
		"| 1.40 | at most 1.50 | met |",
		"| 1.25 | at most 1.05 | MISSED |",
		"two addresses of a device / one, p50 | 1.50 | none |",
		"second choice / only choice, p50 | 1.25 | none |",
		"32 clients | 0.50 | none |",
		"| 1000 | 1 | 20.0 ms | 30.0 ms | 10.0 ms | 1.25 |",
		"in this process | 1 | 60.0 ms | 60.0 ms | at most 50.0 ms | MISSED |",
		"| 10000 machines in 100 pools | 1 | 6.00 s | 6.00 s | at most 5.00 s | MISSED | 250 MiB | at most 300 MiB | met |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, out.String())
		}
	}
}

func TestScrapeTellsOfAllThatIsMeasured(t *testing.T) {
	t.Parallel()
	if took, err := scrapes(t.Context(), 1); err != nil || len(took) != 1 {
		t.Errorf("got %d samples and error %v", len(took), err)
	}
}
