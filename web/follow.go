package web

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"capv-static-ip.dev/inventory"
)

const (
	// readsApart is the least time between the end of a read and the next one, and
	// readsRatio how much longer a pause is than the read before it: a large cluster is
	// read less often.
	readsApart = 500 * time.Millisecond
	readsRatio = 10
	// readEvery is how often the cluster is read if nobody says that it changed.
	readEvery = 15 * time.Second
	// readTimeout bounds one read.
	readTimeout = time.Minute
)

// follower has the newest Graph of a cluster. It reads the cluster again when a watch says
// that something changed, and from time to time: what is shown is always one read, whose
// time is known.
type follower struct {
	source inventory.Source
	watcher
	// every is how often the cluster is read without a change.
	every time.Duration
	// lookout finds what is wrong. again is when the cluster is to be read once more for it,
	// 0 if it need not be.
	lookout inventory.Lookout
	again   time.Duration

	mu    sync.Mutex
	state state
	// news is closed when there is a new state.
	news chan struct{}
}

// state is what is known of the cluster.
type state struct {
	graph *inventory.Graph
	// report is what is wrong in it, and unsure how much of it only looks so, up to now.
	report *inventory.Report
	unsure int
	// concerns are the findings with the pages that they are about, about has them by these
	// pages, and problems has them by their pools.
	concerns []concern
	about    map[string][]concern
	problems inventory.Problems
	// lost says why nothing newer is known, and since when that is so.
	lost  error
	since time.Time
	// unwatched are the kinds of which changes are not told.
	unwatched []string
}

// newState is what one read has found. All pages show it, so that it is put in order but once.
func newState(graph *inventory.Graph, report *inventory.Report) state {
	concerns := concernsOf(graph, report)
	return state{graph: graph, report: report, concerns: concerns, about: byPage(concerns), problems: inventory.ProblemsOf(report.Findings)}
}

// newFollower reads the cluster for the first time.
func newFollower(ctx context.Context, source inventory.Source, w watcher, limits inventory.Limits) (*follower, error) {
	source.ForFindings = true
	f := &follower{
		source: source, watcher: w, every: readEvery, news: make(chan struct{}),
		lookout: inventory.Lookout{Limits: limits, Pause: inventory.SecondLook},
	}
	if err := f.read(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

// run reads again until the context ends.
func (f *follower) run(ctx context.Context) {
	took := time.Duration(0)
	for {
		every := f.every
		if f.again > 0 {
			every = min(every, f.again)
		}
		if !sleep(ctx, max(readsApart, readsRatio*took), nil) || !sleep(ctx, every, f.changed) {
			return
		}
		start := time.Now()
		if err := f.read(ctx); err != nil {
			f.update(func(s *state) {
				if s.lost == nil {
					s.since = start
				}
				s.lost = err
			})
		}
		took = time.Since(start)
	}
}

// sleep waits, not longer than until somebody wakes it, and tells whether to go on.
func sleep(ctx context.Context, long time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-wake:
	}
	return true
}

// read reads the cluster, and finds what is wrong. The lists of a read are not of one moment,
// so what looks wrong must look so for two seconds, as in an audit. Nobody waits for that here:
// the read is shown at once, without what is not sure, and a later read is its second look.
// With changes that comes by itself; else it is made after the pause.
func (f *follower) read(ctx context.Context) error {
	f.again = 0
	limited, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	lists := &noting{Reader: f.client}
	source := f.source
	source.Reader = lists
	began := time.Now()
	graph, err := source.Read(limited)
	if err != nil {
		return err
	}
	f.watch(ctx, lists.noted)
	report, unsure := f.lookout.Look(graph, began, time.Now())
	if unsure > 0 {
		f.again = f.lookout.Pause
	}
	now := newState(graph, report)
	now.unsure, now.unwatched = unsure, slices.Sorted(maps.Keys(f.refused))
	f.update(func(s *state) { *s = now })
	return nil
}

// update changes what is known, and tells those who wait for news.
func (f *follower) update(change func(*state)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.state)
	close(f.news)
	f.news = make(chan struct{})
}

// now is what is known, and what is closed when there is news.
func (f *follower) now() (state, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, f.news
}
