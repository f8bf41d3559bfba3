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
	// decks has what is left of each lane, from one round to the next.
	decks []*deck
}

// deck deals faults by chance, but each of them once before any comes a second time, and
// from then on each as often as its weight says before all are shuffled again. So none
// fails to come for long.
type deck struct {
	all, left []fault
}

// newDeck has each fault once on top.
func newDeck(by *rand.Rand, lane []fault) *deck {
	top := slices.Clone(lane)
	shuffle(by, top)
	return &deck{all: lane, left: slices.Concat(top, deal(by, lane, -1))}
}

// deal has each fault as often as its weight says, and so many more.
func deal(by *rand.Rand, lane []fault, more int) []fault {
	var cards []fault
	for _, f := range lane {
		for range f.weight + more {
			cards = append(cards, f)
		}
	}
	shuffle(by, cards)
	return cards
}

func shuffle(by *rand.Rand, cards []fault) {
	by.Shuffle(len(cards), func(i, j int) { cards[i], cards[j] = cards[j], cards[i] })
}

// next is the first fault that is possible now; those before it stay on top.
func (d *deck) next(by *rand.Rand, possible func(fault) bool) (fault, bool) {
	if len(d.left) == 0 {
		d.left = deal(by, d.all, 0)
	}
	at := slices.IndexFunc(d.left, possible)
	if at < 0 {
		return fault{}, false
	}
	chosen := d.left[at]
	d.left = slices.Delete(d.left, at, at+1)
	return chosen, true
}

func (t *trial) newNemesis() *nemesis {
	n := &nemesis{trial: t, rand: t.random(1 << 32)}
	for _, lane := range lanes() {
		n.decks = append(n.decks, newDeck(n.rand, n.chosen(lane)))
	}
	return n
}

// faults are the kinds of all that can be chosen.
func (t *trial) faults() []string {
	var kinds []string
	for _, lane := range lanes() {
		for _, f := range (&nemesis{trial: t}).chosen(lane) {
			if t.options.clocks || f.kind != "wrong-clock" {
				kinds = append(kinds, f.kind)
			}
		}
	}
	if t.options.moves {
		kinds = append(kinds, moveFault)
	}
	if t.options.migrations {
		kinds = append(kinds, migrateFault)
	}
	return kinds
}

// random is what decides, by the seed, for one of those who choose.
func (t *trial) random(who uint64) *rand.Rand {
	return rand.New(rand.NewPCG(t.options.seed, who)) //nolint:gosec // it is to be repeated
}

// lanes go on beside each other: programs and connections in one, objects in the other.
func lanes() [][]fault {
	return [][]fault{programFaults(), objectFaults()}
}

// run breaks things until the context ends, and returns when all is mended.
func (n *nemesis) run(ctx context.Context) {
	var all sync.WaitGroup
	for i, lane := range n.decks {
		own := &nemesis{trial: n.trial, rand: rand.New(rand.NewPCG(n.rand.Uint64(), uint64(i)))} //nolint:gosec // it is to be repeated
		all.Go(func() { own.runLane(ctx, lane) })
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

func (n *nemesis) runLane(ctx context.Context, lane *deck) {
	if len(lane.all) == 0 {
		return
	}
	for {
		wait(ctx, time.Duration(n.rand.Int64N(int64(betweenFaults))))
		if ctx.Err() != nil {
			return
		}
		n.breakSome(ctx, lane)
	}
}

// breakSome writes into the history what is broken, from before that until it is mended.
// While something is moved, or waits for that, what cannot be broken then stays in the deck.
func (n *nemesis) breakSome(ctx context.Context, lane *deck) {
	still := n.moving.TryRLock()
	f, ok := lane.next(n.rand, func(f fault) bool { return still || !f.apart })
	switch {
	case still && ok && f.apart:
		defer n.moving.RUnlock()
	case still:
		n.moving.RUnlock()
	}
	if !ok {
		return
	}
	target, mend := f.act(ctx, n)
	if mend == nil {
		return
	}
	n.fault(f.kind, target, mend)
}

// some is a time of at least from and less than to.
func (n *nemesis) some(from, to time.Duration) time.Duration { return some(n.rand, from, to) }

func some(by *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(by.Int64N(int64(to-from)))
}

func (n *nemesis) anyArena() *arena { return one(n.rand, n.arenas) }

// anyOfOurs is one of the replicas, and the leader if that is wanted and known.
func (n *nemesis) anyOfOurs(ctx context.Context, leader bool) *replica {
	chosen := one(n.rand, n.ours)
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
