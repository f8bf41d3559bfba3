package main

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// burst is what many clients measure: things of one kind that they make at once.
type burst struct {
	measure.Crowd
	used   usage
	failed int64
	// settled is how long it took from the end of the burst until each machine's claim was bound
	// and adopted, and manager what the manager used until then. There are none of bare claims.
	settled time.Duration
	manager time.Duration
}

func (b *burst) add(other burst) {
	b.Add(other.Crowd)
	b.used.add(other.used)
	b.failed += other.failed
	b.settled += other.settled
	b.manager += other.manager
}

// bursts are those of a size, in one way, and the bare claims that are made in turns with them.
type bursts struct {
	size             int
	claims, machines burst
}

// burstSize is how many are made at once, and how often.
type burstSize struct{ size, rounds int }

// manyClients makes bursts of bare claims and of machines, in turns.
func (b *bench) manyClients(ctx context.Context, sizes []burstSize, all []*result) error {
	for _, size := range sizes {
		b.log.Begin(fmt.Sprintf("%d at once by %d clients: %d rounds", size.size, measure.Clients, size.rounds))
		for range size.rounds {
			claims := map[string]burst{}
			for _, r := range all {
				if _, done := claims[r.source.Name]; !done {
					var err error
					if claims[r.source.Name], err = b.burstOfClaims(ctx, r.source, size.size); err != nil {
						return fmt.Errorf("claims of %s: %w", r.source.Name, err)
					}
				}
				machines, err := b.burstOfMachines(ctx, r.way, size.size)
				if err != nil {
					return fmt.Errorf("%s: %w", r.name, err)
				}
				into := r.burstsOf(size.size)
				into.claims.add(claims[r.source.Name])
				into.machines.add(machines)
				b.log.Tick()
			}
		}
		b.log.Done()
	}
	return nil
}

func (b *bench) burstOfClaims(ctx context.Context, source measure.Source, count int) (burst, error) {
	s, err := b.newSite(ctx, source)
	if err != nil {
		return burst{}, err
	}
	made, err := s.burst(ctx, s.claim(), count, nil)
	if err != nil {
		return burst{}, err
	}
	return made, s.wipe(ctx)
}

func (b *bench) burstOfMachines(ctx context.Context, w *way, count int) (made burst, err error) {
	s, err := b.newSite(ctx, w.source)
	if err != nil {
		return burst{}, err
	}
	err = b.with(ctx, w, func(manager *harness.Manager) error {
		// The first request prepares the webhook, and does not count.
		kind := s.injected()
		if _, err := s.inTurn(ctx, pace{1, quiet(0), 0}, kind); err != nil {
			return err
		}
		before := b.failed.Load()
		if made, err = s.burst(ctx, kind, count, manager); err != nil {
			return err
		}
		made.failed = b.failed.Load() - before
		start, used := time.Now(), s.used(manager)
		if err := s.adopted(ctx, count); err != nil {
			return err
		}
		made.settled = time.Since(start)
		made.manager = made.used.manager + s.used(manager).since(used).manager
		return nil
	})
	if err != nil {
		return burst{}, err
	}
	return made, s.wipe(ctx)
}

// burst lets the clients make so many of a kind.
func (s *site) burst(ctx context.Context, kind sample, count int, manager *harness.Manager) (burst, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	names, before := s.names(kind.kind, count), s.used(manager)
	crowd, err := measure.AtOnce(ctx, names, kind.make)
	return burst{Crowd: crowd, used: s.used(manager).since(before)}, err
}

// adopted waits until there are as many claims that are bound and have an owner.
func (s *site) adopted(ctx context.Context, count int) error {
	return harness.Eventually(ctx, patience, "all claims to be adopted", func(ctx context.Context) error {
		list := s.source.Claims.DeepCopyObject().(client.ObjectList)
		if err := s.client.List(ctx, list, client.InNamespace(s.namespace)); err != nil {
			return err
		}
		adopted := 0
		items, err := meta.ExtractList(list)
		if err != nil {
			return err
		}
		for _, item := range items {
			if claim, ok := item.(object); ok && s.source.HasAddress(claim) && len(claim.GetOwnerReferences()) > 0 {
				adopted++
			}
		}
		if adopted < count {
			time.Sleep(lookEach)
			return fmt.Errorf("%d of %d are", adopted, count)
		}
		return nil
	})
}

// throttled makes bursts while metal3 keeps to the limit of requests that it has by itself.
func (b *bench) throttled(ctx context.Context, size burstSize, all []*result) error {
	own := b.metal3
	if err := own.Stop(); err != nil {
		return err
	}
	limited, err := b.plane.StartMetal3(ctx, harness.Metal3Options{Throttled: true})
	if err != nil {
		return fmt.Errorf("starting metal3 with its own limit: %w", err)
	}
	b.metal3 = limited
	b.log.Begin("metal3 with its own limit")
	var results []*result
	for _, r := range all {
		if r.source.Name == measure.Metal3().Name {
			results = append(results, &result{way: r.way})
		}
	}
	if err := b.manyClients(ctx, []burstSize{size}, results); err != nil {
		return err
	}
	for _, r := range results {
		for _, to := range all {
			if to.way == r.way {
				to.throttled = r.bursts
			}
		}
	}
	if err := limited.Stop(); err != nil {
		return err
	}
	b.metal3 = own
	if err := own.Start(ctx); err != nil {
		return err
	}
	return own.InstallWebhooks(ctx)
}
