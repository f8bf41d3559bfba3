//go:build heavy

package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// Between two pools of one provider, the tests beside this one are played here alone.
func TestMigrationsWithinAProvider(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, from, to harness.Fixture){
		"are finished whenever they are killed": finishedWheneverKilled,
		"are undone whenever they are killed":   undoneWheneverKilled,
		"let machines come and go":              comeAndGoMeanwhile,
	} {
		t.Run(name, func(t *testing.T) {
			inDirections(t, slices.DeleteFunc(slices.Clone(directions), func(d direction) bool { return !d.isWithin() }), test)
		})
	}
}

// A pool of a thousand machines takes minutes, and the machines stay as they are.
func TestThousandMachinesAreMovedInMinutes(t *testing.T) {
	const machines, limit = 1000, 5 * time.Minute
	for _, d := range directions[:2] {
		t.Run(d.from.Name+" to "+d.to.Name, func(t *testing.T) {
			r := &relocation{scene: newScene(t, shared), from: d.from, to: d.to, devices: map[string][]capvv1.NetworkDeviceSpec{}}
			wide := []harness.Option{harness.WithRange("10.30.0.2", "10.30.7.254"), harness.WithPrefix(16), harness.WithGateway("10.30.0.1"), harness.WithNameservers()}
			r.pool(d.from, wide...)
			r.create(d.to.Pool(r.ns, append([]harness.Option{harness.WithPoolName("new-pool")}, wide...)...))
			r.m = r.migration(r.pluginClient(nil))
			r.m.Parallel, r.m.Report = 8, func(string, ...any) {}
			r.createAll(machines)

			began := time.Now()
			if err := r.m.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)

			t.Logf("%d machines took %s", machines, took.Round(time.Second))
			if took > limit {
				t.Errorf("it took %s, want %s at the most", took, limit)
			}
			if err := r.isSafe(); err != nil {
				t.Error(err)
			}
			r.within(2*time.Minute, "all machines to be held by the new pool alone", func(context.Context) error { return r.heldBy(r.m.To) })
		})
	}
}

// createAll makes so many machines, and waits until the plan has them ready.
func (r *relocation) createAll(machines int) {
	r.Helper()
	var group errgroup.Group
	group.SetLimit(clients)
	for i := range machines {
		// Whoever is refused, since the provider is slow, tries again, as Cluster API does.
		group.Go(func() error {
			machine := r.asks(r.from, fmt.Sprintf("m-%d", i))
			return harness.Eventually(r.Context(), 2*time.Minute, "the creation", func(ctx context.Context) error {
				return client.IgnoreAlreadyExists(r.env.Client.Create(ctx, machine.DeepCopy()))
			})
		})
	}
	if err := group.Wait(); err != nil {
		r.Fatal(err)
	}
	r.within(5*time.Minute, "all machines to be adopted", func(ctx context.Context) error {
		plan, err := r.m.Plan(ctx)
		if err != nil {
			return err
		}
		ready := 0
		for _, machine := range plan.Machines {
			if machine.Why == "" {
				ready++
			}
		}
		if ready < machines {
			return fmt.Errorf("%d of %d are", ready, machines)
		}
		return nil
	})
	for i := range machines {
		name := fmt.Sprintf("m-%d", i)
		r.devices[name] = r.machine(name).Spec.Network.Devices
	}
}
