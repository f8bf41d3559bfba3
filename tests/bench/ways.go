package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// way is one way to an injected address: a provider, and how the manager works with it.
type way struct {
	name   string
	source measure.Source
	args   []string
	goals  goals
	// bench runs managers one at a time, so one is enough for each way.
	manager *harness.Manager
}

// goals are what is aimed at in one way; the zero value of each is no goal.
type goals struct {
	// plain and parts are the most of a plain create, and of that and a bare claim, that an
	// injection may take.
	plain, parts float64
	// rate and throttled are the least of the provider's own claims each second that there are
	// to be of machines: of a provider that may do what it can, and of one with its own limit.
	rate, throttled float64
}

// allocationFlag says how the manager allocates from metal3's pools.
const allocationFlag = "--metal3-allocation="

func ways() []*way {
	return []*way{
		{name: "metal3, claim", source: measure.Metal3(), args: []string{allocationFlag + "claim"}, goals: goals{parts: 1.25, rate: 0.8}},
		{name: "metal3, address", source: measure.Metal3(), args: []string{allocationFlag + "address"}, goals: goals{plain: 4, rate: 3, throttled: 15}},
		{name: "in-cluster", source: measure.InCluster(), goals: goals{parts: 1.25, rate: 0.8}},
	}
}

// prepare starts a manager for each way once, so that what is measured are restarts.
func (b *bench) prepare(ctx context.Context) ([]*result, error) {
	var all []*result
	for _, w := range ways() {
		all = append(all, &result{way: w})
		if err := b.with(ctx, w, func(*harness.Manager) error { return nil }); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// with lets a manager work in this way, alone.
func (b *bench) with(ctx context.Context, w *way, do func(*harness.Manager) error) (err error) {
	if w.manager == nil {
		w.manager, err = b.installation.StartManager(ctx, harness.ManagerOptions{WithoutLeaderElection: true, Confined: true, Args: w.args})
		if err != nil {
			w.manager = nil
		}
	} else {
		err = w.manager.Start(ctx)
	}
	if err != nil {
		return fmt.Errorf("starting a manager for %s: %w", w.name, err)
	}
	defer func() { err = errors.Join(err, w.manager.Stop()) }()
	return do(w.manager)
}

// rested waits until the manager has looked at everything that it found when it started.
func rested(ctx context.Context, manager *harness.Manager) error {
	since := time.Now()
	return harness.Eventually(ctx, patience, "the manager to come to rest", func(ctx context.Context) error {
		families, err := manager.Scrape(ctx)
		if err != nil {
			return err
		}
		busy := 0.0
		for _, name := range []string{"workqueue_depth", "controller_runtime_active_workers"} {
			for _, metric := range families[name].GetMetric() {
				busy += metric.GetGauge().GetValue()
			}
		}
		if busy > 0 {
			since = time.Now()
		}
		if time.Since(since) < restFor {
			time.Sleep(lookEach)
			return fmt.Errorf("%v of its work is left", busy)
		}
		return nil
	})
}

const (
	// restFor is for how long a manager has nothing to do before it counts as at rest.
	restFor = time.Second
	// lookEach is how often that is asked at the most: each answer is work, too.
	lookEach = 200 * time.Millisecond
)
