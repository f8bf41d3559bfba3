package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
)

func TestReportComparesWithCAPVsOwnWay(t *testing.T) {
	t.Parallel()
	took := func(readable, metadata time.Duration) times {
		return times{
			readable: measure.Durations{readable}, metadata: measure.Durations{metadata}, ready: measure.Durations{2 * metadata},
		}
	}
	r := &results{machine: measure.Machine{Model: "some CPU", Load: "0.10", Cores: 2}}
	native, ours := contenders()[0].name, contenders()[1].name
	r.of(native, 3, true).add(took(10*time.Second, 6*time.Second))
	r.of(ours, 3, true).add(took(50*time.Millisecond, 3*time.Second))
	r.of(native, 30, true).add(took(10*time.Second, 6*time.Second))
	r.of(ours, 30, true).add(took(50*time.Millisecond, 6*time.Second))
	r.bursts = []burst{{
		contender: contenders()[1], count: 200, failed: 1,
		claims:   measure.Crowd{Durations: make(measure.Durations, 200), Wall: 5 * time.Second},
		machines: measure.Crowd{Durations: make(measure.Durations, 200), Wall: 10 * time.Second},
	}}

	var out bytes.Buffer
	r.print(&out)

	for _, want := range []string{
		"2 cores, some CPU",
		"| 3 | on | " + native + " | 1 | 10.00 s | 10.00 s | 6.00 s | 6.00 s | 12.00 s | 12.00 s |",
		"| 3 | on | " + ours + " | 200 | at least 150: met | 0.50 | at most 1.0: met | 0.50 |",
		"| 30 | on | " + ours + " | 200 | at least 300: MISSED | 1.00 | at most 0.8: MISSED | 1.00 |",
		"| 200 by 32 clients | " + ours + " | 40.0 | 20.0 | 0.50 | at least 0.8 | MISSED | 1 |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, out.String())
		}
	}
}
