package migration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/procedure"
)

const (
	// firstLook and lastLook are how soon it is looked again at what a provider has to do.
	firstLook, lastLook = 20 * time.Millisecond, time.Second
	// rounds is how often the pool is read again for machines that came meanwhile.
	rounds = 5
)

// Migration moves the addresses of one pool to another.
type Migration struct {
	Client client.Client
	// Source reads all namespaces, with workloads. Its client is the API server itself.
	Source   inventory.Source
	From, To inventory.PoolKey
	// Parallel is how many machines are moved at a time.
	Parallel int
	// Timeout bounds each wait for a provider.
	Timeout time.Duration
	// Templates says that what asks for the old pool is edited, and what the new one lacks.
	Templates bool
	// Report tells of what is done.
	Report func(format string, args ...any)
}

// Run does what was planned. What was begun before is finished first: until then, the new pool
// may not be changed.
func (m *Migration) Run(ctx context.Context) error {
	if err := m.settle(ctx, false); err != nil {
		return fmt.Errorf("finishing what was begun: %w", err)
	}
	p, err := m.planned(ctx)
	if err != nil {
		return err
	}
	if len(p.ready())+len(p.waiting()) == 0 {
		// Freezing what is closed would only undo that.
		if err := m.edit(ctx, p); err != nil {
			return err
		}
		return m.end(ctx)
	}
	if err := m.freeze(ctx); err != nil {
		return err
	}
	for range rounds {
		if more, err := m.round(ctx); err != nil {
			return err
		} else if !more {
			break
		}
	}
	return m.end(ctx)
}

// planned is Plan, and an error if something keeps it from being done, by now.
func (m *Migration) planned(ctx context.Context) (*Plan, error) { return unstopped(m.Plan(ctx)) }

func unstopped(p *Plan, err error) (*Plan, error) {
	if err == nil && len(p.Stops) > 0 {
		err = errors.New(p.Stops[0])
	}
	return p, err
}

// settle finishes the machines that are half way, or brings them back. The old pool was frozen
// when they were begun, and the new one was not; but others may have thawed the one, or frozen
// the other, or have written what they were before.
func (m *Migration) settle(ctx context.Context, back bool) error {
	look := m.Plan
	if back {
		look = m.survey
	}
	p, err := unstopped(look(ctx))
	if err != nil || len(p.halfWay()) == 0 {
		return err
	}
	if err := m.freeze(ctx); err != nil {
		return err
	}
	to, err := m.pool(m.To).Read(ctx)
	if err != nil {
		return err
	}
	if m.migratable(m.To).IsFrozen(to) {
		if err := m.reserve(ctx, p); err != nil {
			return err
		}
	}
	return m.moveAll(ctx, p.halfWay(), back)
}

// round moves the machines that are ready, and tells whether there were any, or some are to be.
func (m *Migration) round(ctx context.Context) (bool, error) {
	p, err := m.planned(ctx)
	if err != nil {
		return false, err
	}
	if err := m.reserve(ctx, p); err != nil {
		return false, err
	}
	if err := m.edit(ctx, p); err != nil {
		return false, err
	}
	if len(p.ready()) == 0 {
		return m.awaitOne(ctx)
	}
	// What the new pool handed out before its addresses were reserved is seen only now.
	now, err := m.planned(ctx)
	if err != nil {
		return false, err
	}
	ready := slices.DeleteFunc(p.ready(), func(machine Machine) bool {
		return !slices.ContainsFunc(now.ready(), func(other Machine) bool { return other.UID == machine.UID })
	})
	return true, m.moveAll(ctx, ready, false)
}

// awaitOne waits for a machine to become ready whose claim is about to be made, and tells
// whether one has.
func (m *Migration) awaitOne(ctx context.Context) (bool, error) {
	for began := time.Now(); ; {
		p, err := m.planned(ctx)
		switch {
		case err != nil || len(p.ready()) > 0:
			return true, err
		case len(p.waiting()) == 0 || time.Since(began) > m.Timeout:
			return false, nil
		}
		if err := procedure.Pause(ctx, 10*firstLook); err != nil {
			return false, err
		}
	}
}

// end gives the pools their last shape, when no machine is half way.
func (m *Migration) end(ctx context.Context) error {
	p, err := m.planned(ctx)
	if err != nil {
		return err
	}
	if half := p.halfWay(); len(half) > 0 {
		return fmt.Errorf("%d machines are half way, as %s: run this again", len(half), half[0].Key)
	}
	if more := p.ready(); len(more) > 0 {
		return fmt.Errorf("%d machines have come meanwhile, as %s: run this again", len(more), more[0].Key)
	}
	if err := m.close(ctx); err != nil {
		return err
	}
	if err := m.reserve(ctx, p); err != nil {
		return err
	}
	if err := m.tellKept(ctx, p); err != nil {
		return err
	}
	if more := p.waiting(); len(more) > 0 {
		return fmt.Errorf("%d machines were not moved, as %s: %s", len(more), more[0].Key, more[0].Why)
	}
	if left := p.refused(); len(left) > 0 {
		return fmt.Errorf("%d machines were not moved, as %s: %s", len(left), left[0].Key, left[0].Why)
	}
	return nil
}

// tellKept tells of addresses that the new pool keeps for as long as the old one has them.
func (m *Migration) tellKept(ctx context.Context, p *Plan) error {
	kept, err := m.kept(ctx, p)
	if err != nil {
		return err
	}
	pool, err := m.pool(m.To).Read(ctx)
	if err != nil {
		return err
	}
	if kept, err = m.inside(pool, kept); err != nil || len(kept) == 0 {
		return err
	}
	first := slices.MinFunc(slices.Collect(maps.Values(kept)), netip.Addr.Compare)
	m.Report("%s still has %d addresses, as %s, which %s keeps for it: run this again when they are gone, before %s is deleted; what is to stay there, reserve in %s first",
		m.From, len(kept), first, m.To, m.From, m.To)
	return nil
}

// Finish has the new pool hand out what it has kept for an old one that is gone.
func (m *Migration) Finish(ctx context.Context) error {
	graph, err := m.Source.ReadWhole(ctx)
	if err != nil {
		return err
	}
	if !m.isOver(graph, m.From.String()) {
		return fmt.Errorf("%s exists: run this again", m.From)
	}
	provider := m.migratable(m.To)
	return m.until(ctx, "giving free what "+m.To.String()+" keeps", func() (bool, error) {
		return true, m.reshape(ctx, m.To, m.From, func(pool client.Object) error { return provider.Reserve(pool, nil) })
	})
}

// Abort brings the machines back that are half way, and has the old pool hand out addresses
// again: those that it has, and the new one has not.
func (m *Migration) Abort(ctx context.Context) error {
	if err := m.settle(ctx, true); err != nil {
		return fmt.Errorf("bringing machines back: %w", err)
	}
	if err := m.thaw(ctx); err != nil {
		return err
	}
	p, err := unstopped(m.survey(ctx))
	if err != nil {
		return err
	}
	return m.reserve(ctx, p)
}
