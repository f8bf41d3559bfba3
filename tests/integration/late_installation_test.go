package integration

import (
	"context"
	"fmt"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// All of them wait for one pool, in turns.
func TestMachinesFromBeforeTheInstallationAreServed(t *testing.T) {
	t.Parallel()
	const machines = 100
	env := ownEnvironment(t, harness.Options{}, 0)
	if err := env.RemoveWebhook(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newScene(t, env)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 88+machines-1))
	for i := range machines {
		s.stored(s.asks(f, fmt.Sprintf("cp-%d", i)))
	}
	if err := env.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}

	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: gracePeriod})
	if err != nil {
		t.Fatal(err)
	}

	s.within(6*harness.Soon, "all machines to have an address", func(context.Context) error {
		for i := range machines {
			if name := fmt.Sprintf("cp-%d", i); len(harness.Addresses(s.machine(name))) != 1 {
				return fmt.Errorf("%s has none", name)
			}
		}
		return nil
	})
	s.eventually("each to have one of its own", func(context.Context) error { return s.heldOnce() })
	s.eventually("nobody to wait", func(ctx context.Context) error {
		late, err := manager.Metric(ctx, "capv_static_ip_machines_late_total", map[string]string{"cause": "not_asked"})
		if err != nil || late != machines {
			return fmt.Errorf("%v were served late, want %d: %w", late, machines, err)
		}
		waiting, err := manager.Metric(ctx, "capv_static_ip_machines_waiting", nil)
		if err != nil || waiting != 0 {
			return fmt.Errorf("%v wait: %w", waiting, err)
		}
		return nil
	})
}

// failOpen has machines stored while nobody is asked.
func (s *scene) failOpen() {
	s.Helper()
	configurations := &admissionregistrationv1.MutatingWebhookConfigurationList{}
	if err := s.env.Client.List(s.Context(), configurations); err != nil {
		s.Fatal(err)
	}
	for i := range configurations.Items {
		configuration := &configurations.Items[i]
		s.change(configuration, func() {
			for n := range configuration.Webhooks {
				configuration.Webhooks[n].FailurePolicy = new(admissionregistrationv1.Ignore)
			}
		})
	}
}

func TestFailOpen(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 1)
	s := newScene(t, env)
	f := harness.OfMetal3
	s.pool(f)
	s.failOpen()
	env.managers[0].Kill()
	machine := s.asks(f, "cp-0")
	s.eventually("the machine to be stored", func(ctx context.Context) error {
		return client.IgnoreAlreadyExists(env.Client.Create(ctx, machine))
	})
	s.staysWithout("cp-0", "nobody was asked")
	if err := env.managers[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	s.becomesKnown(s.machine("cp-0"))

	s.served("cp-0", 1)
	s.expectDevices("cp-0", f.Injected(harness.StaticDevice(), 88))
	s.settled("cp-0")
}

// What the leader has claimed, the next one writes; or gives back, if the machine goes.
// The provider of the second address does not run at first.
func TestLeaderChangesBetweenClaimAndPatch(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 2)
	s := newScene(t, env)
	f := harness.OfMetal3
	s.pool(f)
	s.create(harness.InClusterPool(s.ns))
	leader, _ := s.leader()
	waits := func(name string, last int) *capvv1.VSphereMachine {
		machine := s.stored(s.asks(f, name, withPoolOf("1", inClusterRef), harness.WithDevices(harness.StaticDevice(), onNetwork("storage"))))
		s.told(name, string(ipam.NotBoundInTime))
		s.eventually("its first address to be protected", func(context.Context) error { return s.isProtected(f.IP(last)) })
		return machine
	}
	stays, goes := waits("cp-0", 88), waits("cp-1", 89)

	leader.Kill()
	s.isDone(goes)
	s.within(2*harness.Soon, "the address of the machine that goes to be returned", s.isReturned(f.IP(89)))
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}

	s.within(4*harness.Soon, "the next leader to serve the machine", func(context.Context) error {
		if got := harness.Addresses(s.machine("cp-0")); len(got) != 2 {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
	if got := harness.Addresses(s.machine("cp-0"))[0]; got != f.IP(88)+"/24" {
		t.Errorf("its first address is %s, want that which the leader before has claimed, %s", got, f.IP(88))
	}
	s.expectClaims(2)
	s.isDone(stays)
	s.returned(f.IP(88))
	if err := leader.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
