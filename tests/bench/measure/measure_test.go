package measure

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
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

func TestGoalIsMetUpToItsLimit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		goal     Goal
		measured float64
		text     string
		verdict  string
	}{
		{Goal{}, 3, "none", ""},
		{Goal{Limit: 1.25}, 1.25, "at most 1.25", "met"},
		{Goal{Limit: 1.25}, 1.26, "at most 1.25", "MISSED"},
		{Goal{Limit: 0.8, Least: true}, 0.8, "at least 0.8", "met"},
		{Goal{Limit: 0.8, Least: true}, 0.79, "at least 0.8", "MISSED"},
		{Goal{Limit: 150, Unit: " MiB"}, 151, "at most 150 MiB", "MISSED"},
	} {
		if text, verdict := test.goal.String(), test.goal.Verdict(test.measured); text != test.text || verdict != test.verdict {
			t.Errorf("%+v and %v: got %q and %q", test.goal, test.measured, text, verdict)
		}
	}
}

func TestClientsMakeEachThingOnceAndTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		names := make([]string, 2*Clients)
		for i := range names {
			names[i] = strconv.Itoa(i)
		}
		var mu sync.Mutex
		made := map[string]int{}
		crowd, err := AtOnce(t.Context(), names, func(_ context.Context, name string) error {
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			made[name]++
			return nil
		})
		if err != nil || len(made) != len(names) || crowd.Wall != 2*time.Second || crowd.Median() != time.Second {
			t.Errorf("%d things were made in %s, %s each: %v", len(made), crowd.Wall, crowd.Median(), err)
		}
		if got := crowd.PerSecond(); got != Clients {
			t.Errorf("got %v each second, want %d", got, Clients)
		}
	})
}

func TestClientsStopAtTheFirstError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	_, err := AtOnce(t.Context(), make([]string, 10*Clients), func(ctx context.Context, _ string) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
