package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// failover is what happens when the leader of two replicas goes, with the lease times that
// the manager has by itself.
type failover struct {
	// adopted is how long it takes until the claim of a machine that was created right after it is
	// adopted, which the new leader does; and created the longest that a create took meanwhile.
	adopted, created time.Duration
}

// shipped are the lease times that the manager has by itself: the harness has shorter ones.
var shipped = []string{"--leader-elect-lease-duration=15s", "--leader-elect-renew-deadline=10s", "--leader-elect-retry-period=2s"}

// failovers measures in each way what it takes when the leader is killed, and when it is
// stopped as by a rolling update. What is on the control plane stays.
func (b *bench) failovers(ctx context.Context, all []*result) error {
	b.log.Begin("a leader goes")
	s, err := b.newSite(ctx, measure.Metal3())
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.source.Name != s.source.Name {
			continue
		}
		if err := s.failover(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		b.log.Tick()
	}
	b.log.Done()
	return nil
}

func (s *site) failover(ctx context.Context, into *result) (err error) {
	options := harness.ManagerOptions{Confined: true, Args: append(shipped, into.args...)}
	var replicas []*harness.Manager
	defer func() {
		for _, replica := range replicas {
			err = errors.Join(err, replica.Stop())
		}
	}()
	for range 2 {
		replica, err := s.installation.StartManager(ctx, options)
		if err != nil {
			return err
		}
		replicas = append(replicas, replica)
	}
	leader, err := leads(ctx, replicas)
	if err != nil {
		return err
	}
	if into.killed, err = s.without(ctx, func() error {
		leader.Kill()
		return nil
	}); err != nil {
		return err
	}
	if err := leader.Start(ctx); err != nil {
		return err
	}
	if leader, err = leads(ctx, replicas); err != nil {
		return err
	}
	into.stopped, err = s.without(ctx, leader.Stop)
	return err
}

// leads waits until one of the replicas leads and has come to rest.
func leads(ctx context.Context, replicas []*harness.Manager) (leader *harness.Manager, err error) {
	err = harness.Eventually(ctx, patience, "a replica to lead", func(ctx context.Context) error {
		for _, replica := range replicas {
			status, err := replica.Metric(ctx, "leader_election_master_status", nil)
			if err == nil && status > 0 {
				leader = replica
				return nil
			}
		}
		return errors.New("none does")
	})
	if err != nil {
		return nil, err
	}
	return leader, rested(ctx, leader)
}

// without measures what it takes when the leader goes.
func (s *site) without(ctx context.Context, goes func() error) (failover, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	kind := s.injected()
	// All is prepared by the first request.
	if err := kind.make(ctx, s.name(kind.kind)); err != nil {
		return failover{}, err
	}
	start, gone := time.Now(), make(chan error, 1)
	go func() { gone <- goes() }()
	first := s.name(kind.kind)
	adopted := s.claims.Expect(ipam.ClaimName(first, ipam.Slot{}), isAdopted)
	isDone := make(chan error, 1)
	var found failover
	go func() {
		err := adopted(ctx)
		found.adopted = time.Since(start)
		isDone <- err
	}()
	name, longest := first, time.Duration(0)
	for {
		begin := time.Now()
		if err := kind.make(ctx, name); err != nil {
			return failover{}, err
		}
		longest = max(longest, time.Since(begin))
		select {
		case err := <-isDone:
			found.created = longest
			return found, errors.Join(err, <-gone)
		case <-time.After(100 * time.Millisecond):
			name = s.name(kind.kind)
		}
	}
}
