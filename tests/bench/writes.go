package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// writes are how often the API server has written each kind of object.
type writes map[string]int

// writesOf counts the writes that the API server has answered well. Leases are renewed
// all the time by whoever leads, and a review writes nothing.
func writesOf(families map[string]*dto.MetricFamily) writes {
	count := writes{}
	for _, metric := range families["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, pair := range metric.GetLabel() {
			labels[pair.GetName()] = pair.GetValue()
		}
		isWrite := slices.Contains([]string{"POST", "PUT", "PATCH", "APPLY", "DELETE"}, labels["verb"]) && labels["dry_run"] == ""
		isReview := strings.HasPrefix(labels["group"], "auth")
		if !isWrite || isReview || labels["resource"] == "leases" || !strings.HasPrefix(labels["code"], "2") {
			continue
		}
		what := labels["resource"]
		if labels["subresource"] != "" {
			what += "/" + labels["subresource"]
		}
		count[what] += int(metric.GetCounter().GetValue())
	}
	return count
}

func (w writes) since(before writes) writes {
	diff := writes{}
	for what, n := range w {
		if n -= before[what]; n != 0 {
			diff[what] = n
		}
	}
	return diff
}

func (w writes) total() int {
	sum := 0
	for _, n := range w {
		sum += n
	}
	return sum
}

// each says how many there were of each for one of so many machines, the most first.
func (w writes) each(machines int) string {
	names := slices.SortedFunc(maps.Keys(w), func(a, b string) int {
		if w[a] != w[b] {
			return w[b] - w[a]
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = fmt.Sprintf("%s %.2f", name, float64(w[name])/float64(machines))
	}
	return strings.Join(parts, ", ")
}

// restOfAll is for how long nothing is written before all have come to rest: a claim is
// adopted a second after its machine.
const restOfAll = 2500 * time.Millisecond

// writes are those so far.
func (b *bench) writes(ctx context.Context) (writes, error) {
	families, err := b.plane.Scrape(ctx)
	return writesOf(families), err
}

// settledWrites waits until nothing is written any more, and returns what was.
func (b *bench) settledWrites(ctx context.Context) (writes, error) {
	var last writes
	since := time.Now()
	err := harness.Eventually(ctx, patience, "everybody to come to rest", func(ctx context.Context) error {
		now, err := b.writes(ctx)
		if err != nil {
			return err
		}
		if !maps.Equal(now, last) {
			last, since = now, time.Now()
		}
		if time.Since(since) < restOfAll {
			time.Sleep(lookEach)
			return errors.New("something was written a moment ago")
		}
		return nil
	})
	return last, err
}

// cost is what is written for machines that are made in a row, and when they are removed.
type cost struct {
	machines     int
	made, remove writes
}

// writesPerMachine counts in each way.
func (b *bench) writesPerMachine(ctx context.Context, count int, into []*result) error {
	sites, err := b.sites(ctx, into)
	if err != nil {
		return err
	}
	b.log.Begin(fmt.Sprintf("counting the writes for %d machines", count))
	for _, r := range into {
		s := sites[r.source.Name]
		err := b.with(ctx, r.way, func(*harness.Manager) (err error) {
			r.cost, err = s.cost(ctx, count)
			return err
		})
		if err != nil {
			return err
		}
		b.log.Tick()
	}
	b.log.Done()
	return nil
}

func (s *site) cost(ctx context.Context, count int) (cost, error) {
	kind := s.injected()
	// What the first of a kind costs, nobody pays again.
	if _, err := s.inTurn(ctx, pace{1, quiet(0), 0}, kind); err != nil {
		return cost{}, err
	}
	before, err := s.settledWrites(ctx)
	if err != nil {
		return cost{}, err
	}
	names := s.names(kind.kind, count)
	for _, name := range names {
		if err := kind.make(ctx, name); err != nil {
			return cost{}, err
		}
		time.Sleep(quiet(0))
	}
	made, err := s.settledWrites(ctx)
	if err != nil {
		return cost{}, err
	}
	if err := removeAll(ctx, kind, names); err != nil {
		return cost{}, err
	}
	removed, err := s.settledWrites(ctx)
	return cost{machines: count, made: made.since(before), remove: removed.since(made)}, err
}

func (c cost) perMachine(w writes) measure.Finding {
	return measure.Finding{Measured: float64(w.total()) / float64(c.machines), Of: w.each(c.machines)}
}
