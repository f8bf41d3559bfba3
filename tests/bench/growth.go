package main

import (
	"context"
	"fmt"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// growth is what was measured with this many machines that have addresses of the pool.
type growth struct {
	bindings        int
	claim, injected measure.Durations
	// starts are from the start of a manager until it was ready, and rests what it used of the
	// processor until it had looked at everything.
	starts, rests measure.Durations
	// written is the most that was written between a start and the rest after it: of what all
	// have come to rest with, there is nothing to write.
	written int
	// resident and peak are the most that a manager had in memory, in bytes: when it had come to
	// rest, or had injected what was measured; and ever.
	resident, peak int64
}

// note takes the memory of a manager into account. What is not known is 0.
func (g *growth) note(manager *harness.Manager) {
	if now, err := manager.ResidentMemory(); err == nil {
		g.resident = max(g.resident, now)
	}
	if most, err := manager.PeakMemory(); err == nil {
		g.peak = max(g.peak, most)
	}
}

// growing measures in a pool that is filled more and more.
func (b *bench) growing(ctx context.Context, p plan, all []*result) error {
	s, err := b.newSite(ctx, measure.Metal3())
	if err != nil {
		return err
	}
	var first *exemplar
	err = b.with(ctx, all[0].way, func(*harness.Manager) (err error) {
		first, err = s.newExemplar(ctx)
		return err
	})
	if err != nil {
		return err
	}
	held := 0
	for _, size := range p.sizes {
		b.log.Begin(fmt.Sprintf("making %d machines with addresses of one pool", size))
		if err := s.furnish(ctx, first, held, size); err != nil {
			return err
		}
		held = size
		b.log.Done()
		b.log.Begin(fmt.Sprintf("one client, %d bindings", size))
		for range p.growthRounds {
			for _, r := range all {
				if r.source.Name != s.source.Name {
					continue
				}
				if err := s.grown(ctx, r.way, p.perSize/p.growthRounds, r.growthOf(size)); err != nil {
					return fmt.Errorf("%s: %w", r.name, err)
				}
				b.log.Tick()
			}
		}
		b.log.Done()
	}
	return nil
}

// grown takes a turn of samples in one way, with a manager that has just started.
func (s *site) grown(ctx context.Context, w *way, count int, into *growth) error {
	before, err := s.writes(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	return s.with(ctx, w, func(manager *harness.Manager) error {
		into.starts = append(into.starts, time.Since(start))
		if err := rested(ctx, manager); err != nil {
			return err
		}
		into.rests = append(into.rests, spent(manager.Process))
		after, err := s.writes(ctx)
		if err != nil {
			return err
		}
		into.written = max(into.written, after.since(before).total())
		into.note(manager)
		if err := s.install(ctx, s); err != nil {
			return err
		}
		kinds := []sample{s.claim(), s.injected()}
		if _, err := s.inTurn(ctx, pace{2, quiet(into.bindings), 0}, kinds...); err != nil {
			return err
		}
		took, err := s.inTurn(ctx, pace{count, quiet(into.bindings), into.bindings / 20}, kinds...)
		if err != nil {
			return err
		}
		into.claim, into.injected = append(into.claim, took[0]...), append(into.injected, took[1]...)
		into.note(manager)
		return nil
	})
}
