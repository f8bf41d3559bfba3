package removal

import (
	"context"
	"errors"
	"time"

	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/procedure"
)

// stop stops the manager, and sees that it has stopped. It is scaled to 0 and not deleted:
// if something was deleted meanwhile, it can be started again to mend that.
func (r *Removal) stop(ctx context.Context) error {
	s, err := r.read(ctx)
	if err != nil {
		return err
	}
	for i := range s.deployments {
		if err := procedure.ScaleDown(ctx, r.Client, &s.deployments[i]); err != nil {
			return err
		}
	}
	leases := procedure.Leases{Name: installation.LeaseName}
	err = procedure.Until(ctx, r.Report, func(ctx context.Context) ([]string, time.Duration, error) {
		s, err := r.read(ctx)
		if err != nil {
			return nil, 0, err
		}
		leading, err := leases.Held(ctx, r.Client)
		return append(s.named(s.pods), leading...), r.Timeout, err
	})
	if stop := (&Stop{}); errors.As(err, &stop) {
		stop.Next = "a manager that may still run must not be overlooked: end it, then run this again"
	}
	if err != nil {
		return err
	}
	return r.lookOnceMore(ctx)
}

// lookOnceMore looks for what was deleted, or begun, while the manager stopped: nobody
// mends it now. What others finish by themselves is waited for.
func (r *Removal) lookOnceMore(ctx context.Context) error {
	var next string
	err := procedure.Until(ctx, r.Report, func(ctx context.Context) ([]string, time.Duration, error) {
		s, err := r.read(ctx)
		if err != nil {
			return nil, 0, err
		}
		next = s.startAgain()
		if r.Mode == Keep {
			return s.between(), r.Settle, nil
		}
		return s.named(s.held()), r.Settle, nil
	})
	if stop := (&Stop{}); errors.As(err, &stop) {
		stop.Next = next
	}
	return err
}
