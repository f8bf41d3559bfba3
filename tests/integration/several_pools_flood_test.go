package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

const (
	flooding = 30
	// floodingLate are those of them that are stored first, and served by the controller.
	floodingLate = 6
	// floodRoom is for how many of them the pools have addresses.
	floodRoom = 24
)

// Machines that want two addresses each, from several pools, are more than these have room
// for. Each address is given, none twice, and nobody keeps a part of what it asked for.
func TestFloodOfMachinesThatWantSeveralPoolsFillsThemAll(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		text := s.floodPools(f)
		var late []*capvv1.VSphereMachine
		for i := range floodingLate {
			late = append(late, s.stored(s.expressing(fmt.Sprintf("late-%d", i), text)))
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var creates errgroup.Group
		for i := range flooding - floodingLate {
			machine := s.expressing(fmt.Sprintf("m-%d", i), text)
			creates.Go(func() error {
				// Whoever is refused tries again, as CAPI does, until all addresses are given.
				_ = harness.Eventually(ctx, 2*patience, "the creation", func(ctx context.Context) error {
					return client.IgnoreAlreadyExists(s.env.Client.Create(ctx, machine.DeepCopy()))
				})
				return nil
			})
		}

		s.within(patience, "all addresses to be given", func(context.Context) error { return s.isFlooded() })
		stop()
		_ = creates.Wait()
		s.consistently("nothing is given twice or in part", func(context.Context) error { return s.isFlooded() })

		s.drained(late)
	})
}

// floodPools makes two pools for IPv4, one of each provider, and one for IPv6 that has more
// room than both; it returns what asks for one of the two and for the third.
func (s *scene) floodPools(f harness.Fixture) (text string) {
	s.Helper()
	other := harness.OfInCluster
	if f.Is(harness.OfInCluster) {
		other = harness.OfMetal3
	}
	s.pool(f, harness.WithPoolName("a"), f.WithIPs(20, 29))
	s.create(other.Pool(s.ns, harness.WithPoolName("b"), other.WithIPs(50, 49+floodRoom-10)))
	s.create(other.Pool(s.ns, harness.WithPoolName("six"), harness.WithRange("2001:db8:12::100", "2001:db8:12::15f"), harness.WithPrefix(64),
		harness.WithGateway("2001:db8:12::1")))
	return ref(f, "a") + "|" + ref(other, "b") + "," + ref(other, "six")
}

// isFlooded is an error unless as many machines as have room have two addresses each, and
// nobody else has them or any.
func (s *scene) isFlooded() error {
	machines := &capvv1.VSphereMachineList{}
	if err := s.env.Client.List(s.Context(), machines, client.InNamespace(s.ns)); err != nil {
		return err
	}
	holders, served := map[string]string{}, 0
	for i := range machines.Items {
		m := &machines.Items[i]
		addresses := harness.Addresses(m)
		if len(addresses) == 0 && strings.HasPrefix(m.Name, "late-") {
			continue
		}
		if len(addresses) != 2 {
			return fmt.Errorf("machine %s has %v", m.Name, addresses)
		}
		served++
		for _, address := range addresses {
			if holders[address] != "" {
				return fmt.Errorf("%s is on %s and on %s", address, holders[address], m.Name)
			}
			holders[address] = m.Name
		}
	}
	if served != floodRoom {
		return fmt.Errorf("%d machines are served, want %d", served, floodRoom)
	}
	return nil
}

// drained deletes all machines, and waits until nothing is claimed any more.
func (s *scene) drained(late []*capvv1.VSphereMachine) {
	s.Helper()
	for _, m := range late {
		s.delete(m)
		s.dropFinalizer(m, harness.MachineFinalizer)
	}
	if err := s.env.Client.DeleteAllOf(s.Context(), &capvv1.VSphereMachine{}, client.InNamespace(s.ns)); err != nil {
		s.Fatal(err)
	}
	s.within(patience, "all addresses to come back", func(context.Context) error {
		if claims := s.claims(); len(claims) > 0 {
			return fmt.Errorf("there are the claims %v", names(claims))
		}
		for _, address := range s.addresses() {
			if ipam.IsProtected(address) {
				return fmt.Errorf("address %s is protected", address.GetName())
			}
		}
		return nil
	})
}
