package main

import (
	"context"
	"errors"
	"time"
)

// programFaults kill, stop and freeze programs, and break what is between them.
func programFaults() []fault {
	return []fault{
		{"kill-replica", 3, false, killOurs(false)},
		{"kill-leader", 3, false, killOurs(true)},
		{"kill-all-replicas", 1, true, killAll},
		{"stop-replica", 1, true, stopOurs},
		{"pause-replica", 2, true, pauseOurs(false)},
		{"pause-leader", 3, true, pauseOurs(true)},
		{"kill-metal3", 2, true, down("metal3-ipam", false)},
		{"stop-metal3", 1, true, down("metal3-ipam", true)},
		{"pause-metal3", 2, true, pause("metal3-ipam")},
		{"kill-in-cluster", 2, true, down("in-cluster-ipam", false)},
		{"stop-in-cluster", 1, true, down("in-cluster-ipam", true)},
		{"pause-in-cluster", 2, true, pause("in-cluster-ipam")},
		{"kill-api-server", 1, true, down("kube-apiserver", false)},
		{"stop-api-server", 1, true, down("kube-apiserver", true)},
		{"pause-api-server", 1, true, pause("kube-apiserver")},
		{"kill-etcd", 1, true, down("etcd", false)},
		{"pause-etcd", 1, true, pause("etcd")},
		{"pause-garbage-collector", 1, true, pause("kube-controller-manager")},
		{"cut-webhook", 3, true, cutWebhook},
		{"stall-webhook", 2, true, stallWebhook},
		{"cut-from-api-server", 2, false, cutFromAPIServer},
		{"stall-from-api-server", 2, true, stallFromAPIServer},
		{"late-watches", 5, false, lateWatch},
		{"wrong-clock", 2, false, wrongClock},
	}
}

type act = func(ctx context.Context, n *nemesis) (string, func() error)

func killOurs(leader bool) act {
	return func(ctx context.Context, n *nemesis) (string, func() error) {
		victim, d := n.anyOfOurs(ctx, leader), n.some(0, 4*time.Second)
		return during(victim.name, d), func() error { return victim.down(ctx, false, d) }
	}
}

func killAll(ctx context.Context, n *nemesis) (string, func() error) {
	d := n.some(0, 4*time.Second)
	return during("all", d), func() error {
		for _, r := range n.ours {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.process.Kill()
		}
		wait(ctx, d)
		var failed error
		for _, r := range n.ours {
			failed = errors.Join(failed, r.run(context.WithoutCancel(ctx)))
		}
		return failed
	}
}

func stopOurs(ctx context.Context, n *nemesis) (string, func() error) {
	victim, d := n.anyOfOurs(ctx, n.rand.IntN(2) == 0), n.some(0, 3*time.Second)
	return during(victim.name, d), func() error { return victim.down(ctx, true, d) }
}

// pauseOurs is longer than a lease, at times: another leads then, and the one that is
// resumed does not know it yet.
func pauseOurs(leader bool) act {
	return func(ctx context.Context, n *nemesis) (string, func() error) {
		victim, d := n.anyOfOurs(ctx, leader), n.some(time.Second, 20*time.Second)
		return during(victim.name, d), func() error { victim.pause(ctx, d); return nil }
	}
}

func down(name string, gently bool) act {
	return func(ctx context.Context, n *nemesis) (string, func() error) {
		d := n.some(0, 6*time.Second)
		return during(name, d), func() error { return n.programs[name].down(ctx, gently, d) }
	}
}

func pause(name string) act {
	return func(ctx context.Context, n *nemesis) (string, func() error) {
		d := n.some(500*time.Millisecond, 10*time.Second)
		return during(name, d), func() error { n.programs[name].pause(ctx, d); return nil }
	}
}

// cutWebhook breaks the API server's connections to the replicas, whatever is under way,
// several times in a row.
func cutWebhook(ctx context.Context, n *nemesis) (string, func() error) {
	pauses := make([]time.Duration, 1+n.rand.IntN(6))
	for i := range pauses {
		pauses[i] = n.some(10*time.Millisecond, time.Second)
	}
	return "all", func() error {
		for _, d := range pauses {
			for _, r := range n.ours {
				n.stack.Installation.Forwarder.Cut(r.manager.WebhookAddress)
			}
			wait(ctx, d)
		}
		return nil
	}
}

func stallWebhook(ctx context.Context, n *nemesis) (string, func() error) {
	d := n.some(time.Second, 14*time.Second)
	return during("all", d), func() error {
		n.stack.Installation.Forwarder.Stall()
		wait(ctx, d)
		n.stack.Installation.Forwarder.Resume()
		return nil
	}
}

func cutFromAPIServer(ctx context.Context, n *nemesis) (string, func() error) {
	victim := n.anyOfOurs(ctx, n.rand.IntN(2) == 0)
	return victim.name, func() error {
		victim.through.Cut(victim.late.address)
		return nil
	}
}

// stallFromAPIServer is longer than a lease, at times.
func stallFromAPIServer(ctx context.Context, n *nemesis) (string, func() error) {
	victim, d := n.anyOfOurs(ctx, n.rand.IntN(2) == 0), n.some(time.Second, 15*time.Second)
	return during(victim.name, d), func() error {
		victim.through.Stall()
		wait(ctx, d)
		victim.through.Resume()
		return nil
	}
}

func lateWatch(ctx context.Context, n *nemesis) (string, func() error) {
	victim := n.anyOfOurs(ctx, n.rand.IntN(2) == 0)
	late, d := n.some(200*time.Millisecond, 15*time.Second), n.some(5*time.Second, 25*time.Second)
	return during(victim.name+" by "+late.Round(time.Millisecond).String(), d), func() error {
		victim.late.set(late)
		wait(ctx, d)
		victim.late.set(0)
		return nil
	}
}

// wrongClock has one replica run with a clock that is wrong, for a while.
func wrongClock(ctx context.Context, n *nemesis) (string, func() error) {
	victim := n.anyOfOurs(ctx, n.rand.IntN(2) == 0)
	// The certificates of the stack are valid since a minute before it was started.
	ahead, d := n.some(-50*time.Second, 2*time.Minute).Truncate(time.Second), n.some(10*time.Second, 30*time.Second)
	if !n.options.clocks {
		return "", nil
	}
	restart := func(ahead time.Duration) error {
		victim.mu.Lock()
		defer victim.mu.Unlock()
		victim.process.Kill()
		victim.manager.SetClock(ahead)
		return victim.run(context.WithoutCancel(ctx))
	}
	return during(victim.name+" by "+ahead.String(), d), func() error {
		if err := restart(ahead); err != nil {
			return errors.Join(err, restart(0))
		}
		wait(ctx, d)
		return restart(0)
	}
}
