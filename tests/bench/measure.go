package main

import (
	"context"
	"fmt"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// growth is what was measured with this many bindings in the pool.
type growth struct {
	bindings        int
	claim, injected measure.Durations
}

// results is all that was measured.
type results struct {
	machine measure.Machine
	// With one client: a machine without us, a machine on DHCP with us, a bare
	// claim, a machine with an injected address.
	plain, dhcp, claim, injected measure.Durations
	// A machine with two addresses of a device, and one whose first choice is full.
	two, chosen               measure.Durations
	crowdClaim, crowdInjected measure.Crowd
	// failed is how often a create failed for want of time, and was tried again.
	failed int64
	growth []growth
	own    []own
	// scrape is what it takes to tell of scrapedAddresses addresses.
	scrape measure.Durations
	looks  looks
}

// measure does everything in its order: the pool is filled last.
func (b *bench) measure(ctx context.Context, p plan, r *results) error {
	if err := b.oneClient(ctx, p, r); err != nil {
		return fmt.Errorf("measuring with one client: %w", err)
	}
	if err := b.manyClients(ctx, p, r); err != nil {
		return fmt.Errorf("measuring with %d clients: %w", crowd, err)
	}
	if err := b.ownShare(ctx, p, r); err != nil {
		return fmt.Errorf("measuring with a provider that answers at once: %w", err)
	}
	if err := b.growing(ctx, p, r); err != nil {
		return fmt.Errorf("measuring with a growing pool: %w", err)
	}
	r.failed = b.failed.Load()
	b.log.Begin(fmt.Sprintf("scraping the metrics of %d addresses", scrapedAddresses))
	defer b.log.Done()
	var err error
	if r.scrape, err = scrapes(ctx, p.scrapes); err != nil {
		return fmt.Errorf("measuring scrapes: %w", err)
	}
	return nil
}

// warmUp is how many samples of each kind do not count.
const warmUp = 5

func (b *bench) oneClient(ctx context.Context, p plan, r *results) error {
	b.log.Begin(fmt.Sprintf("one client: %d rounds", p.rounds))
	if _, err := b.inTurn(ctx, warmUp, 0, b.claim(), b.injected(), b.two(), b.chosen()); err != nil {
		return err
	}
	for range p.rounds {
		if err := b.uninstall(ctx); err != nil {
			return err
		}
		if err := b.creates(ctx, p, b.untouched("plain"), &r.plain); err != nil {
			return err
		}
		if err := b.install(ctx); err != nil {
			return err
		}
		dhcp := b.untouched("dhcp", harness.WithDevices(harness.DHCPDevice()))
		if err := b.creates(ctx, p, dhcp, &r.dhcp); err != nil {
			return err
		}
		took, err := b.inTurn(ctx, p.claims, 0, b.claim(), b.injected(), b.two(), b.chosen())
		if err != nil {
			return err
		}
		r.claim, r.injected = append(r.claim, took[0]...), append(r.injected, took[1]...)
		r.two, r.chosen = append(r.two, took[2]...), append(r.chosen, took[3]...)
		if err := b.isEmpty(ctx); err != nil {
			return err
		}
		b.log.Tick()
	}
	b.log.Done()
	return nil
}

// creates takes samples of what needs no provider, in the same way with and
// without us. The API server prepares new webhooks at the first requests, which
// do not count.
func (b *bench) creates(ctx context.Context, p plan, kind sample, into *measure.Durations) error {
	time.Sleep(200 * time.Millisecond)
	for i := range warmUp + p.creates {
		name, took, err := b.once(ctx, kind)
		if err != nil {
			return err
		}
		if err := kind.remove(ctx, name); err != nil {
			return err
		}
		if i >= warmUp {
			*into = append(*into, took)
		}
	}
	return nil
}

func (b *bench) manyClients(ctx context.Context, p plan, r *results) error {
	b.log.Begin(fmt.Sprintf("%d clients: %d rounds", crowd, p.crowdRounds))
	for range p.crowdRounds {
		for _, turn := range []struct {
			kind sample
			into *measure.Crowd
		}{{b.claim(), &r.crowdClaim}, {b.injected(), &r.crowdInjected}} {
			took, wall, err := b.atOnce(ctx, p.perClient, turn.kind)
			if err != nil {
				return err
			}
			turn.into.Add(took, wall)
			if err := b.isEmpty(ctx); err != nil {
				return err
			}
		}
		b.log.Tick()
	}
	b.log.Done()
	return nil
}

func (b *bench) growing(ctx context.Context, p plan, r *results) error {
	held := 0
	for _, size := range p.sizes {
		b.log.Begin(fmt.Sprintf("filling the pool to %d bindings", size))
		if err := b.fill(ctx, held, size); err != nil {
			return err
		}
		held = size
		b.log.Done()
		b.log.Begin(fmt.Sprintf("one client, %d bindings", size))
		if _, err := b.inTurn(ctx, warmUp, size, b.claim(), b.injected()); err != nil {
			return err
		}
		took, err := b.inTurn(ctx, p.perSize, size, b.claim(), b.injected())
		if err != nil {
			return err
		}
		r.growth = append(r.growth, growth{size, took[0], took[1]})
		b.log.Done()
	}
	return nil
}
