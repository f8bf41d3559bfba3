package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// betweenFaults is how long nothing new is broken at most, in each lane.
const betweenFaults = 6 * time.Second

// fault is a way to break something. It returns what it broke when it is mended.
type fault struct {
	kind string
	// weight is how often it is chosen, compared with others of its lane.
	weight int
	// apart says that nothing can be moved meanwhile.
	apart bool
	// act breaks something, and mends it.
	act func(ctx context.Context, n *nemesis) (target string, mend func() error)
}

// nemesis breaks things. What it breaks next is decided by the seed.
type nemesis struct {
	*trial
	rand *rand.Rand
}

func (t *trial) newNemesis(round int) *nemesis {
	return &nemesis{trial: t, rand: rand.New(rand.NewPCG(t.options.seed, uint64(1<<32+round)))} //nolint:gosec // it is to be repeated
}

// lanes go on beside each other: programs and connections in one, objects in the other.
func lanes() [][]fault {
	return [][]fault{programFaults(), objectFaults()}
}

// run breaks things until the context ends, and returns when all is mended.
func (n *nemesis) run(ctx context.Context) {
	var all sync.WaitGroup
	for i, lane := range lanes() {
		own := &nemesis{trial: n.trial, rand: rand.New(rand.NewPCG(n.rand.Uint64(), uint64(i)))} //nolint:gosec // it is to be repeated
		all.Go(func() { own.runLane(ctx, n.chosen(lane)) })
	}
	all.Wait()
}

// chosen are the faults that are wanted.
func (n *nemesis) chosen(lane []fault) []fault {
	if len(n.options.faults) == 0 {
		return lane
	}
	return slices.DeleteFunc(lane, func(f fault) bool {
		return !slices.ContainsFunc(n.options.faults, func(name string) bool { return strings.HasPrefix(f.kind, name) })
	})
}

func (n *nemesis) runLane(ctx context.Context, lane []fault) {
	if len(lane) == 0 {
		return
	}
	for {
		wait(ctx, time.Duration(n.rand.Int64N(int64(betweenFaults))))
		if ctx.Err() != nil {
			return
		}
		n.breakSome(ctx, n.pick(lane))
	}
}

func (n *nemesis) pick(lane []fault) fault {
	sum := 0
	for _, f := range lane {
		sum += f.weight
	}
	at := n.rand.IntN(sum)
	for _, f := range lane {
		if at -= f.weight; at < 0 {
			return f
		}
	}
	return lane[0]
}

// breakSome writes into the history what is broken, from before that until it is mended.
func (n *nemesis) breakSome(ctx context.Context, f fault) {
	// While something is moved, or waits for that, something else is broken.
	if f.apart && !n.moving.TryRLock() {
		return
	}
	if f.apart {
		defer n.moving.RUnlock()
	}
	target, mend := f.act(ctx, n)
	if mend == nil {
		return
	}
	n.fault(f.kind, target, mend)
}

// some is a time of at least from and less than to.
func (n *nemesis) some(from, to time.Duration) time.Duration {
	return from + time.Duration(n.rand.Int64N(int64(to-from)))
}

func (n *nemesis) anyArena() *arena { return n.arenas[n.rand.IntN(len(n.arenas))] }

// anyOfOurs is one of the replicas, and the leader if that is wanted and known.
func (n *nemesis) anyOfOurs(ctx context.Context, leader bool) *replica {
	chosen := n.ours[n.rand.IntN(len(n.ours))]
	if !leader {
		return chosen
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if leads, err := n.stack.Leader(ctx); err == nil && leads != nil {
		for _, r := range n.ours {
			if r.manager == leads {
				return r
			}
		}
	}
	return chosen
}

func during(what string, d time.Duration) string {
	return fmt.Sprintf("%s for %s", what, d.Round(time.Millisecond))
}
