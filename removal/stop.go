package removal

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/installation"
)

// stop stops the manager, and sees that it has stopped. It is scaled to 0 and not deleted:
// if something was deleted meanwhile, it can be started again to mend that.
func (r *Removal) stop(ctx context.Context) error {
	s, err := r.read(ctx)
	if err != nil {
		return err
	}
	for i := range s.deployments {
		if err := r.scaleDown(ctx, &s.deployments[i]); err != nil {
			return err
		}
	}
	var leases leases
	err = r.until(ctx, func(ctx context.Context) ([]string, time.Duration, error) {
		s, err := r.read(ctx)
		if err != nil {
			return nil, 0, err
		}
		leading, err := leases.held(ctx, r.Client)
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

func (r *Removal) scaleDown(ctx context.Context, d *appsv1.Deployment) error {
	err := kube.RetryOnConflict(func() error {
		if d.Spec.Replicas != nil && *d.Spec.Replicas == 0 {
			return nil
		}
		before := d.DeepCopy()
		d.Spec.Replicas = new(int32)
		err := kube.PatchAsRead(ctx, r.Client, d, before)
		if apierrors.IsConflict(err) {
			if err := r.Client.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
				return err
			}
		}
		return err
	})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("stopping Deployment %s/%s: %w", d.Namespace, d.Name, err)
	}
	return nil
}

// lookOnceMore looks for what was deleted, or begun, while the manager stopped: nobody
// mends it now. What others finish by themselves is waited for.
func (r *Removal) lookOnceMore(ctx context.Context) error {
	var next string
	err := r.until(ctx, func(ctx context.Context) ([]string, time.Duration, error) {
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

// leases tells whether somebody leads, by whether it renews its lease: clocks may differ.
// So a manager that runs elsewhere than in our Pods is not overlooked.
type leases map[types.UID]sighting

// sighting is when a lease was first seen to be as it is.
type sighting struct {
	version string
	since   time.Time
}

// held are the leases of which it is not certain that nobody has them any more.
func (l *leases) held(ctx context.Context, reader client.Reader) ([]string, error) {
	const usually = 15
	if *l == nil {
		*l = leases{}
	}
	list := &coordinationv1.LeaseList{}
	if err := reader.List(ctx, list, client.MatchingFields{"metadata.name": installation.LeaseName}); err != nil {
		return nil, fmt.Errorf("looking for who leads: %w", err)
	}
	var held []string
	for i := range list.Items {
		lease := &list.Items[i]
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			continue
		}
		seen, known := (*l)[lease.UID]
		if !known || seen.version != lease.ResourceVersion {
			seen = sighting{version: lease.ResourceVersion, since: time.Now()}
			(*l)[lease.UID] = seen
		}
		lasts := int32(usually)
		if lease.Spec.LeaseDurationSeconds != nil {
			lasts = *lease.Spec.LeaseDurationSeconds
		}
		if time.Since(seen.since) <= time.Duration(lasts)*time.Second {
			held = append(held, fmt.Sprintf("Lease %s/%s, which %s has", lease.Namespace, lease.Name, *lease.Spec.HolderIdentity))
		}
	}
	return held, nil
}
