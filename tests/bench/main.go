// Command bench measures what an injected address costs, and prints it as
// tables. Everything is measured in one run on one control plane, and what is
// compared is measured in turns, so that noise hits all sides alike.
//
//	make bench
//	go run ./tests/bench -quick
//
// A goal that is missed is reported and is no failure: the machine may be busy.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

func main() {
	measure.Main("bench", "take a minute or two: few samples, small bursts, pools of up to 100 bindings, no leader that goes", thorough().run, short().run)
}

// plan says how much is measured.
type plan struct {
	// rounds is how often the measurements with one client take turns.
	rounds int
	// creates and claims are the samples in each turn: of what takes a few
	// milliseconds, and of what waits for the provider.
	creates, claims int
	// counted are the machines whose writes are counted.
	counted int
	// bursts are made by many clients, and throttled while metal3 has its own limit.
	bursts    []burstSize
	throttled burstSize
	// sizes are the numbers of machines with addresses of one pool at which growth is
	// measured, and perSize the samples at each.
	sizes   []int
	perSize int
	// growthRounds is how often the ways take turns at each size.
	growthRounds int
	// failover says whether it is measured what it takes when a leader goes: most of a minute.
	failover bool
	// ownSizes and ownSamples are the same for our own share of a create, where the
	// provider answers at once.
	ownSizes   []int
	ownSamples int
	// scrapes are the samples of a scrape, and looks those of the plugin.
	scrapes, looks int
}

func thorough() plan {
	return plan{
		rounds: 3, creates: 50, claims: 15, counted: 20, bursts: []burstSize{{200, 2}, {1000, 1}}, throttled: burstSize{128, 1},
		sizes: []int{10, 1000, 10000}, perSize: 16, growthRounds: 2, failover: true, ownSizes: []int{10, 1000, 10000}, ownSamples: 100, scrapes: 100, looks: 5,
	}
}

func short() plan {
	return plan{
		rounds: 1, creates: 20, claims: 10, counted: 5, bursts: []burstSize{{64, 1}}, throttled: burstSize{32, 1},
		sizes: []int{10, 100}, perSize: 10, growthRounds: 1, ownSizes: []int{10, 100}, ownSamples: 20, scrapes: 20, looks: 3,
	}
}

func (p plan) run(ctx context.Context, out, progress io.Writer) (err error) {
	start, on := time.Now(), measure.ThisMachine()
	log := measure.NewProgress(progress)
	log.Begin("starting a control plane, metal3 and capv-static-ip")
	b, err := startBench(ctx, log)
	if err != nil {
		return err
	}
	defer func() {
		b.leaveAll()
		err = errors.Join(b.plane.KeepLogs(ctx, err), b.plane.Stop())
	}()
	log.Done()
	results := &results{machine: on}
	// What was measured before an error, or an interrupt, is of use as well.
	defer func() {
		results.failed = b.failed.Load()
		results.print(out)
		fmt.Fprintf(out, "\nMeasured in %s.\n", time.Since(start).Round(time.Second))
	}()
	return b.measure(ctx, p, results)
}

// measure does everything in its order: the pool is filled last.
func (b *bench) measure(ctx context.Context, p plan, r *results) (err error) {
	if r.ways, err = b.prepare(ctx); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"with a provider that answers at once", func() error {
			return b.with(ctx, r.ways[0].way, func(*harness.Manager) (err error) {
				r.own, err = b.ownShare(ctx, p)
				return err
			})
		}},
		{"with the in-cluster provider", func() (err error) {
			b.inCluster, err = b.plane.StartInCluster(ctx)
			return err
		}},
		{"with one client", func() error { return b.oneClient(ctx, p, r.ways) }},
		{"writes", func() error { return b.writesPerMachine(ctx, p.counted, r.ways) }},
		{"with many clients", func() error { return b.manyClients(ctx, p.bursts, r.ways) }},
		{"with metal3's own limit", func() error { return b.throttled(ctx, p.throttled, r.ways) }},
		{"with a growing pool", func() error { return b.growing(ctx, p, r.ways) }},
		{"failover", func() error {
			if !p.failover {
				return nil
			}
			return b.failovers(ctx, r.ways)
		}},
		{"the plugin", func() error { return b.plugin(ctx, p, r) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("measuring %s: %w", step.what, err)
		}
	}
	b.log.Begin(fmt.Sprintf("scraping the metrics of %d addresses", scrapedAddresses))
	defer b.log.Done()
	if r.scrape, err = scrapes(ctx, p.scrapes); err != nil {
		return fmt.Errorf("measuring scrapes: %w", err)
	}
	return nil
}

// plugin is measured last, while nobody else asks the API server.
func (b *bench) plugin(ctx context.Context, p plan, r *results) (err error) {
	if err := errors.Join(b.metal3.Stop(), b.inCluster.Stop()); err != nil {
		return err
	}
	machines := p.sizes[len(p.sizes)-1]
	b.log.Begin(fmt.Sprintf("looking at %d machines with the plugin", machines))
	defer b.log.Done()
	r.looks, err = b.look(ctx, machines, p.looks)
	return err
}
