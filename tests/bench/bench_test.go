package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestPercentileIsASampleThatWasMeasured(t *testing.T) {
	t.Parallel()
	hundred := make(durations, 0, 100)
	for n := 100; n > 0; n-- {
		hundred = append(hundred, time.Duration(n))
	}
	for _, test := range []struct {
		samples durations
		percent float64
		want    time.Duration
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{durations{7}, 50, 7},
		{durations{7}, 99, 7},
		{durations{9, 1, 5}, 50, 5},
		{nil, 50, 0},
	} {
		if got := test.samples.percentile(test.percent); got != test.want {
			t.Errorf("percentile %v of %d samples: got %d, want %d", test.percent, len(test.samples), got, test.want)
		}
	}
}

func TestReportComparesWithTheGoals(t *testing.T) {
	t.Parallel()
	r := &results{
		machine:       machine{model: "some CPU", load: "0.10", cores: 2},
		plain:         durations{4 * time.Millisecond},
		dhcp:          durations{5 * time.Millisecond},
		claim:         durations{16 * time.Millisecond},
		injected:      durations{28 * time.Millisecond},
		crowdClaim:    crowded{durations: make(durations, 80), wall: 2 * time.Second},
		crowdInjected: crowded{durations: make(durations, 80), wall: 4 * time.Second},
		growth:        []growth{{1000, durations{20 * time.Millisecond}, durations{30 * time.Millisecond}}},
	}
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{
		"2 cores, some CPU",
		"| VSphereMachine with an injected address | 1 | 1 | 28.0 ms | 28.0 ms |",
		"| 1.40 | at most 1.50 | met |",
		"| 1.25 | at most 1.05 | MISSED |",
		"32 clients | 0.50 | none |",
		"| 1000 | 1 | 20.0 ms | 30.0 ms | 10.0 ms | 1.25 |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, out.String())
		}
	}
}

func TestModelOfTheCPUIsRead(t *testing.T) {
	t.Parallel()
	const cpuinfo = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 2 GHz\n"
	if got := cpuModel(cpuinfo, "arm64"); got != "Some CPU @ 2 GHz" {
		t.Errorf("got %q", got)
	}
	if got := cpuModel("BogoMIPS: 48\n", "arm64"); got != "arm64" {
		t.Errorf("where no model is given: got %q", got)
	}
}
