package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// coolsFor makes the addresses of a pool cool down for so long.
func coolsFor(d time.Duration) harness.Option {
	return harness.WithAnnotation(ipam.ReuseAfterAnnotation, d.String())
}

// A roll-out of a full pool takes as long for each address.
func TestRollOutWithCoolDownNeedsTheAddresses(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		const lasts = 15 * time.Second
		template := s.template("workers", provider.Ask("pool"))
		workers := s.workers(template, "md-0", 2)
		s.create(s.pool(provider, "pool", 88, 90, coolsFor(lasts)), template, workers)
		s.nodes(workers)
		larger := s.template("larger", provider.Ask("pool"))
		larger.Spec.Template.Spec.MemoryMiB *= 2
		s.create(larger)

		patch(s, workers, func(workers *clusterv1.MachineDeployment) {
			workers.Spec.Template.Spec.InfrastructureRef.Name = larger.Name
		})

		s.replaced(workers, func(machine *capvv1.VSphereMachine) bool {
			return machine.Annotations[clusterv1.TemplateClonedFromNameAnnotation] == larger.Name
		})
		// Three addresses, two of which the first machines had.
		s.expectReuse(1)
		s.expectCooled(lasts)
	})
}

// expectCooled checks that no virtual machine got an address sooner than so long after
// the last one that had it was destroyed.
func (s *scene) expectCooled(lasts time.Duration) {
	s.Helper()
	events, err := s.events(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	destroyed, users := map[string]time.Time{}, map[string]string{}
	for _, event := range events {
		for _, address := range event.Addresses {
			if gone, known := destroyed[address]; known && users[address] != event.ID {
				if passed := event.Time.Sub(gone); passed < lasts {
					s.Errorf("%s was used again after %s, want not before %s", address, passed, lasts)
				} else {
					s.step("%s was used again after %s", address, passed)
				}
			}
			users[address] = event.ID
			if event.Kind == stack.VMDestroyed {
				destroyed[address] = event.Time
			}
		}
	}
}

func TestMoveWhileAnAddressCools(t *testing.T) {
	for name, test := range map[string]struct {
		by      harness.Fixture
		options []harness.Option
	}{
		"of an in-cluster pool":              {harness.OfInCluster, nil},
		"of a pool of metal3 of its Cluster": {harness.OfMetal3, []harness.Option{ofItsCluster}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRelocation(t, test.by, 0, append(test.options, coolsFor(time.Hour))...)
			r.scaleDown(relocated - 1)
			r.before = r.nodes(r.workers)
			claim, since := r.coolingClaim(r.scene)
			r.event = r.lastEvent()

			r.move()

			r.checkKept()
			r.checkNothingLeft()
			arrived, now := r.coolingClaim(r.target)
			if arrived != claim || !now.Equal(since) {
				t.Errorf("in the target claim %s cools down since %s, want %s since %s", arrived, now, claim, since)
			}
			pool := r.pool(r.target)
			patch(r.target, pool, func(pool client.Object) { coolsFor(0)(pool) })
			r.target.eventually(harness.Soon, "what has cooled down to be released", func(ctx context.Context) error {
				_, _, err := r.target.cooling(ctx)
				if err == nil {
					return errors.New("it still cools down")
				}
				return nil
			})
			r.checkNewMachineOnTheFreeAddress()
			r.checkReleased()
		})
	}
}

// scaleDown waits until the Machine is gone, too, since clusterctl stops at what goes while it
// looks.
func (r *relocation) scaleDown(replicas int32) {
	r.Helper()
	r.scale(r.workers, replicas)
	r.eventually(provisioned, "all other Machines to be gone", func(ctx context.Context) error {
		machines := &clusterv1.MachineList{}
		err := r.stack.Plane.Client.List(ctx, machines, client.InNamespace(r.ns))
		if n := len(machines.Items); n != int(replicas) {
			err = errors.Join(fmt.Errorf("there are %d", n), err)
		}
		return err
	})
}

// coolingClaim waits until the address of one claim cools down there, and returns since when.
func (r *relocation) coolingClaim(where *scene) (claim string, since time.Time) {
	r.Helper()
	where.eventually(provisioned, "one claim and its address to cool down", func(ctx context.Context) (err error) {
		claim, since, err = where.cooling(ctx)
		return err
	})
	r.step("claim %s cools down since %s", claim, since)
	return claim, since
}

// cooling is the claim that cools down with its address. An error says that there is not
// one of each.
func (s *scene) cooling(ctx context.Context) (claim string, since time.Time, err error) {
	var cooling []string
	for _, provider := range harness.Providers {
		claims, err := s.objects(ctx, ipam.EmptyClaim(provider))
		if err != nil {
			return "", since, err
		}
		for i := range claims {
			if at, released := ipam.ReleasedAt(&claims[i]); released && len(claims[i].OwnerReferences) == 0 {
				claim, since = claims[i].Name, at
				cooling = append(cooling, "claim "+claim)
			}
		}
		addresses, err := s.objects(ctx, ipam.EmptyAddress(provider))
		if err != nil {
			return "", since, err
		}
		for i := range addresses {
			if ipam.IsReleased(&addresses[i]) && slices.Contains(addresses[i].Finalizers, ipam.InUseFinalizer) {
				cooling = append(cooling, "address "+addresses[i].Name)
			}
		}
	}
	if len(cooling) != 2 || claim == "" {
		return "", since, fmt.Errorf("there are %v", cooling)
	}
	return claim, since, nil
}
