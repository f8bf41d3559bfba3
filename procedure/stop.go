package procedure

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
)

// IsScaledDown tells whether a Deployment wants no Pod.
func IsScaledDown(d *appsv1.Deployment) bool { return d.Spec.Replicas != nil && *d.Spec.Replicas == 0 }

// ScaleDown scales a Deployment to 0. One that is gone is as good.
func ScaleDown(ctx context.Context, c client.Client, d *appsv1.Deployment) error {
	err := kube.RetryOnConflict(func() error {
		if IsScaledDown(d) {
			return nil
		}
		before := d.DeepCopy()
		d.Spec.Replicas = new(int32)
		err := kube.PatchAsRead(ctx, c, d, before)
		if apierrors.IsConflict(err) {
			if err := c.Get(ctx, client.ObjectKeyFromObject(d), d); err != nil {
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

// Leases tell whether somebody leads, by whether it renews its lease of this name: clocks may
// differ. So a program that runs elsewhere than in the Pods one knows is not overlooked.
type Leases struct {
	Name string
	// WithLocks has the ConfigMaps of the name looked at, too: older programs lead by these.
	WithLocks bool
	seen      map[types.UID]sighting
}

// lockAnnotation is on a ConfigMap by which somebody leads.
const lockAnnotation = "control-plane.alpha.kubernetes.io/leader"

// usually is how many seconds a lease lasts of which nothing else is known.
const usually = 15

// sighting is when a lease was first seen to be as it is.
type sighting struct {
	version string
	since   time.Time
}

// Held are the leases of which it is not certain that nobody has them any more.
func (l *Leases) Held(ctx context.Context, reader client.Reader) ([]string, error) {
	list := &coordinationv1.LeaseList{}
	if err := reader.List(ctx, list, client.MatchingFields{"metadata.name": l.Name}); err != nil {
		return nil, fmt.Errorf("looking for who leads: %w", err)
	}
	var held []string
	for i := range list.Items {
		lease := &list.Items[i]
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			continue
		}
		lasts := int32(usually)
		if lease.Spec.LeaseDurationSeconds != nil {
			lasts = *lease.Spec.LeaseDurationSeconds
		}
		if l.isRenewed(lease, lasts) {
			held = append(held, fmt.Sprintf("Lease %s/%s, which %s has", lease.Namespace, lease.Name, *lease.Spec.HolderIdentity))
		}
	}
	if !l.WithLocks {
		return held, nil
	}
	locks := kube.MetadataListOf(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	if err := reader.List(ctx, locks, client.MatchingFields{"metadata.name": l.Name}); err != nil {
		return nil, fmt.Errorf("looking for who leads: %w", err)
	}
	for i := range locks.Items {
		if lock := &locks.Items[i]; lock.Annotations[lockAnnotation] != "" && l.isRenewed(lock, usually) {
			held = append(held, fmt.Sprintf("ConfigMap %s/%s, by which somebody leads", lock.Namespace, lock.Name))
		}
	}
	return held, nil
}

// isRenewed tells whether a lease that lasts for so many seconds may yet be renewed.
func (l *Leases) isRenewed(lease client.Object, lasts int32) bool {
	if l.seen == nil {
		l.seen = map[types.UID]sighting{}
	}
	seen, known := l.seen[lease.GetUID()]
	if !known || seen.version != lease.GetResourceVersion() {
		seen = sighting{version: lease.GetResourceVersion(), since: time.Now()}
		l.seen[lease.GetUID()] = seen
	}
	return time.Since(seen.since) <= time.Duration(lasts)*time.Second
}
