package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// firstTenant begins the numbers of networks that no arena has.
	firstTenant = 100
	// visitors make machines in a tenant's namespace, each so many.
	visitors, visits = 4, 4
	// tenantTimeout is how long a namespace may take to go. The namespace controller waits
	// ever longer between its tries, while a provider refuses to let a pool go that is in use.
	tenantTimeout = 5 * time.Minute
)

// newTenant makes a namespace of its own with pools, which is not for long.
func (n *nemesis) newTenant(ctx context.Context) (*arena, error) {
	number := firstTenant + int(n.tenants.Add(1))
	a := &arena{ns: fmt.Sprintf("tenant-%d", number), sources: sources(number, one(n.rand, flavours))}
	objects := []client.Object{harness.Cluster(a.ns, harness.DefaultCluster)}
	for _, s := range a.offered() {
		objects = append(objects, s.object(a.ns))
	}
	err := n.mend(ctx, "a namespace to be made", func(ctx context.Context) error { return n.stack.EnsureNamespace(ctx, a.ns) })
	for _, object := range objects {
		if err == nil {
			err = n.mend(ctx, "a pool to be made", func(ctx context.Context) error {
				return client.IgnoreAlreadyExists(n.stack.Plane.Client.Create(ctx, object))
			})
		}
	}
	return a, err
}

// visit makes machines in a tenant's namespace, until it has none that could be made.
func (n *nemesis) visit(ctx context.Context, a *arena, all *sync.WaitGroup) {
	for i := range visitors {
		id := len(n.workers) + i
		w := &worker{trial: n.trial, arena: a, id: id, client: n.stack.Plane.Client, rand: n.rand}
		wanted := make([][]source, visits)
		for v := range wanted {
			wanted[v] = a.ask(n.rand)
		}
		all.Go(func() {
			for v, ask := range wanted {
				if ctx.Err() != nil {
					return
				}
				w.createAs(ctx, fmt.Sprintf("%s-%d-%d", a.ns, i, v), ask)
			}
		})
	}
}

// deleteNamespace deletes a namespace while machines are made in it.
func deleteNamespace(ctx context.Context, n *nemesis) (string, func() error) {
	a, err := n.newTenant(ctx)
	if err != nil {
		return "", nil
	}
	head := n.some(0, 3*time.Second)
	return a.ns, func() error {
		var all sync.WaitGroup
		n.visit(ctx, a, &all)
		wait(ctx, head)
		defer all.Wait()
		return n.removeNamespace(ctx, a)
	}
}

// removeNamespace deletes a namespace and waits until it is gone.
func (n *nemesis) removeNamespace(ctx context.Context, a *arena) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.ns}}
	err := n.mend(ctx, "the namespace to be deleted", func(ctx context.Context) error {
		return client.IgnoreNotFound(n.stack.Plane.Client.Delete(ctx, namespace))
	})
	if err != nil {
		return err
	}
	return harness.WaitGone(context.WithoutCancel(ctx), n.stack.Plane.Client, namespace, tenantTimeout)
}

// deletePool deletes a pool while machines with its addresses are made, then these, and
// sees that it goes.
func deletePool(ctx context.Context, n *nemesis) (string, func() error) {
	a, err := n.newTenant(ctx)
	if err != nil {
		return "", nil
	}
	s, head := one(n.rand, a.offered()), n.some(0, 3*time.Second)
	return a.ns + " " + s.ref(), func() error {
		var all sync.WaitGroup
		n.visit(ctx, a, &all)
		wait(ctx, head)
		pool := s.object(a.ns)
		// The in-cluster provider refuses that as long as the pool is in use.
		_ = n.do(ctx, history.Op{Worker: -1, Kind: "delete pool", Namespace: a.ns, Name: s.name}, func(ctx context.Context) error {
			return n.stack.Plane.Client.Delete(ctx, pool)
		})
		all.Wait()
		err := n.mend(ctx, "the machines to be deleted", func(ctx context.Context) error {
			return n.stack.Plane.Client.DeleteAllOf(ctx, &capvv1.VSphereMachine{}, client.InNamespace(a.ns))
		})
		if err != nil {
			return err
		}
		err = n.mend(ctx, "the pool to be gone", func(ctx context.Context) error {
			err := n.stack.Plane.Client.Delete(ctx, pool)
			switch {
			case apierrors.IsNotFound(err):
				return nil
			case err != nil:
				return err
			default:
				return fmt.Errorf("pool %s/%s is not gone yet", a.ns, s.name)
			}
		})
		if err != nil {
			return err
		}
		return n.removeNamespace(ctx, a)
	}
}
