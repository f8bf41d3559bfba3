package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/procedure"
)

// conflicts is how often a machine is read again because others write it, too.
const conflicts = 20

// passage is a machine on its way to the new pool, or back.
type passage struct {
	planned Machine
	// back says that it is brought back, unless it says of itself what happens with it.
	back bool
	// observed is what was read of it, if it is known, and again how often that was read anew.
	observed observed
	known    bool
	again    int
	// waits says that it is to be switched to its new claim when the addresses of the new pool
	// have been read. They are nil until then, and after it.
	waits     bool
	addresses *[]ipam.Address
	// finished says that it is at the end, and cause why it was brought back unasked.
	finished bool
	cause    error
	// err is why it did not come to the end.
	err error
}

// moveAll moves machines, or brings them back, some at a time. What fails with one does not stop
// the others.
func (m *Migration) moveAll(ctx context.Context, machines []Machine, back bool) error {
	var errs []error
	var finished atomic.Int64
	tell := func(p *passage) {
		if p.err != nil {
			m.Report("%s: %v", p.planned.Key, p.err)
			return
		}
		m.Report("%d of %d: %s", finished.Add(1), len(machines), p.planned.Key)
	}
	for group := range slices.Chunk(machines, max(1, m.Parallel)) {
		if ctx.Err() != nil {
			break
		}
		passages := make([]*passage, len(group))
		for i, machine := range group {
			passages[i] = &passage{planned: machine, back: back}
		}
		m.moveTogether(ctx, passages, tell)
		for _, p := range passages {
			if p.err != nil {
				errs = append(errs, fmt.Errorf("VSphereMachine %s: %w", p.planned.Key, p.err))
			}
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// moveTogether takes machines to the end, and tells of each that has come to it, or does not.
// They wait for each other before they are switched to their new claims: all addresses of the
// new pool are read before that, for all of them at once, since it may have thousands.
func (m *Migration) moveTogether(ctx context.Context, passages []*passage, tell func(*passage)) {
	for len(passages) > 0 {
		var all sync.WaitGroup
		for _, p := range passages {
			all.Go(func() {
				if p.err = m.advance(ctx, p); p.err != nil || p.finished {
					tell(p)
				}
			})
		}
		all.Wait()
		passages = slices.DeleteFunc(slices.Clone(passages), func(p *passage) bool { return p.err != nil || p.finished })
		if len(passages) == 0 {
			return
		}
		addresses, err := m.pool(m.To).Addresses(ctx)
		for _, p := range passages {
			p.waits, p.addresses = false, &addresses
			if err != nil {
				p.err = errors.Join(p.cause, err)
				tell(p)
			}
		}
		if err != nil {
			return
		}
	}
}

// advance takes a machine step by step to the end, or to where it waits.
func (m *Migration) advance(ctx context.Context, p *passage) error {
	for !p.finished && !p.waits {
		err := m.step(ctx, p)
		var taken *takenError
		if errors.As(err, &taken) {
			p.cause, err = taken, m.announce(ctx, &p.observed, true)
		}
		switch {
		case err == nil:
		// What is not found has gone meanwhile, maybe with the machine.
		case (apierrors.IsConflict(err) || apierrors.IsNotFound(err)) && p.again < conflicts:
			p.again++
			p.known = false
		default:
			return errors.Join(p.cause, err)
		}
	}
	if p.finished {
		return p.cause
	}
	return nil
}

// step reads a machine, or does what is next.
func (m *Migration) step(ctx context.Context, p *passage) error {
	if !p.known {
		return m.begin(ctx, p)
	}
	switch d := next(p.observed); d.task {
	case done:
		p.finished = true
		return nil
	case blocked:
		return errors.New(d.why)
	case await:
		return m.await(ctx, &p.observed, d)
	case switchTo:
		if p.addresses == nil {
			p.waits = true
			return nil
		}
		addresses := *p.addresses
		p.addresses = nil
		return m.switchTo(ctx, &p.observed, d.journey, addresses)
	case discard:
		if err := m.perform(ctx, &p.observed, d); err != nil {
			return err
		}
		return errors.New(d.why)
	default:
		return m.perform(ctx, &p.observed, d)
	}
}

// begin reads a machine, and says on it that it is brought back if that is asked for.
func (m *Migration) begin(ctx context.Context, p *passage) error {
	o, err := m.observe(ctx, p.planned, p.back)
	if err != nil {
		return err
	}
	p.observed, p.known = o, true
	if p.back && o.announced && !o.back {
		return m.announce(ctx, &p.observed, true)
	}
	return nil
}

// await waits until a provider has done something for a move: always at its new end.
func (m *Migration) await(ctx context.Context, o *observed, d decision) error {
	wait := firstLook
	for began := time.Now(); ; wait = min(2*wait, lastLook) {
		if err := procedure.Pause(ctx, wait); err != nil {
			return err
		}
		if err := m.lookAtNew(ctx, o, d.journey); err != nil {
			return err
		}
		if err := m.confirm(ctx, o); err != nil {
			return err
		}
		switch now := next(*o); {
		case now.task != await || now.journey != d.journey:
			return nil
		case time.Since(began) > m.Timeout:
			return fmt.Errorf("after %s, %s", m.Timeout, now.why)
		}
	}
}
