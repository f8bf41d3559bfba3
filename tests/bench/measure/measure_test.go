package measure

import (
	"testing"
	"time"
)

func TestPercentileIsASampleThatWasMeasured(t *testing.T) {
	t.Parallel()
	hundred := make(Durations, 0, 100)
	for n := 100; n > 0; n-- {
		hundred = append(hundred, time.Duration(n))
	}
	for _, test := range []struct {
		samples Durations
		percent float64
		want    time.Duration
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{Durations{7}, 50, 7},
		{Durations{7}, 99, 7},
		{Durations{9, 1, 5}, 50, 5},
		{nil, 50, 0},
	} {
		if got := test.samples.Percentile(test.percent); got != test.want {
			t.Errorf("percentile %v of %d samples: got %d, want %d", test.percent, len(test.samples), got, test.want)
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
