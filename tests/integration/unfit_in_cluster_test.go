package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

func TestInClusterAddressThatIsSetAsideIsToldAndComesBackWhenItsCauseIsGone(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := s.inClusterPool(harness.InClusterAddresses("10.16.57.2-10.16.57.4"), harness.InClusterWith(harness.WithAnnotation(nameservers, "10.16.57.2")))

	s.create(s.inClusterMachine("cp-0"))

	if got := s.ip("cp-0"); got != "10.16.57.3" {
		t.Errorf("the machine got %s, want what is beside the name server", got)
	}
	if note := s.toldAbout(harness.InClusterPoolKind, pool.GetName(), "AddressSetAside").Note; !strings.HasPrefix(note, "10.16.57.2 ") {
		t.Errorf("the pool is told %q, want it to begin with the address", note)
	}
	if n := len(s.setAside()); n != 1 {
		t.Fatalf("%d claims are set aside, want 1", n)
	}
	s.annotate(pool, nameservers, nil)
	s.within(reviewed, "the address to come back", func(context.Context) error {
		if left := s.setAside(); len(left) > 0 {
			return fmt.Errorf("%d claims are set aside", len(left))
		}
		return nil
	})
	s.returned("10.16.57.2")
	s.create(s.inClusterMachine("cp-1"))
	if got := s.ip("cp-1"); got != "10.16.57.2" {
		t.Errorf("the next machine got %s, want 10.16.57.2", got)
	}
}

func TestEndpointOfAControlPlaneIsNotGivenToANodeOfAnInClusterPool(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	cluster.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: "10.201.3.10", Port: 6443}
	s.create(cluster, harness.InClusterPool(s.ns, harness.InClusterAddresses("10.201.3.10-10.201.3.15"), harness.InClusterField(nil, "gateway")))
	s.known("10.201.3.10")

	s.create(s.inClusterMachine("cp-0"))

	if got := s.ip("cp-0"); got != "10.201.3.11" {
		t.Errorf("the node got %s, want 10.201.3.11", got)
	}
}

func TestInClusterAddressThatWasChangedAfterItWasGivenIsTold(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true}, 1)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newScene(t, env)
	s.inClusterPool(harness.InClusterAddresses(inClusterFirst + "-" + inClusterSecond))
	machine := s.inClusterMachine("cp-0")
	s.create(machine)
	s.settled("cp-0")
	changed := s.metric("capv_static_ip_addresses_changed_total", nil)
	// No webhook may run after ours here, so ours is away for a moment.
	if err := env.RemoveWebhook(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.eventually("the address to be changed", func(context.Context) error {
		s.change(machine, func() { machine.Spec.Network.Devices[0].IPAddrs = []string{inClusterSecond + "/24"} })
		return s.has("cp-0", inClusterSecond)
	})
	if err := env.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}

	if note := s.told("cp-0", "AddressChanged"); !strings.Contains(note, inClusterFirst) {
		t.Errorf("event AddressChanged says %q, want it to name %s", note, inClusterFirst)
	}
	if got := s.metric("capv_static_ip_addresses_changed_total", nil); got != changed+1 {
		t.Errorf("%v changes are counted, want one more than the %v before", got, changed)
	}
	// Neither of the two is given to anybody.
	s.eventually("the webhook to be called again", func(ctx context.Context) error {
		return denialIn(env.Client.Create(ctx, s.copyOf("cp-0", "copy"), client.DryRunAll))
	})
	if err := denialIn(env.Client.Create(t.Context(), s.inClusterMachine("cp-1"))); err != nil {
		t.Errorf("another machine asks for an address: %v", err)
	}
	s.consistently("the address that it was given is held", func(context.Context) error { return s.isProtectedAddress(inClusterFirst) })

	s.delete(machine)
	s.gone(machine)
	s.returned(inClusterFirst)
	s.eventually("the addresses that nobody uses any more to be given", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, s.inClusterMachine("cp-1"))
	})
}

// isProtectedAddress is isProtected for an address of the contract.
func (s *scene) isProtectedAddress(ip string) error {
	address, err := s.address(ip)
	if err != nil {
		return err
	}
	if !address.GetDeletionTimestamp().IsZero() || !slices.Contains(address.GetFinalizers(), ipam.InUseFinalizer) {
		return fmt.Errorf("%s is deleted at %v, and has finalizers %v", address.GetName(), address.GetDeletionTimestamp(), address.GetFinalizers())
	}
	return nil
}

// Claim and address were taken away by force while the controller was kept from
// mending that. The provider offers the address to the next machine that asks.
func TestAddressThatAMachineLostIsItsAgainWhenTheNextOneIsOfferedIt(t *testing.T) {
	t.Parallel()
	for name, provider := range map[string]struct {
		pool    func(s *scene) client.Object
		label   string
		first   string
		address func(s *scene, ip string) (client.Object, error)
		claim   func(s *scene, name string) client.Object
		// free returns an error while the provider counts the address as used.
		free func(s *scene, pool client.Object) error
	}{
		"metal3": {
			pool: func(s *scene) client.Object {
				pool := harness.Pool(s.ns)
				s.create(pool)
				return pool
			},
			label: harness.DefaultPool, first: firstIP,
			address: func(s *scene, ip string) (client.Object, error) { return s.address(ip) },
			claim:   func(s *scene, name string) client.Object { return harness.Claim(s.ns, name, harness.DefaultPool) },
			free: func(_ *scene, pool client.Object) error {
				if used := pool.(*ipamv1.IPPool).Status.Allocations; len(used) > 0 {
					return fmt.Errorf("it says that %v are used", used)
				}
				return nil
			},
		},
		"in-cluster": {
			pool:  func(s *scene) client.Object { return s.inClusterPool() },
			label: harness.DefaultInClusterPool, first: inClusterFirst,
			address: func(s *scene, ip string) (client.Object, error) { return s.address(ip) },
			claim: func(s *scene, name string) client.Object {
				return harness.AddressClaim(s.ns, name, harness.InClusterPoolKind, harness.DefaultInClusterPool)
			},
			free: func(s *scene, _ client.Object) error {
				if address, err := s.address(inClusterFirst); err == nil {
					return fmt.Errorf("%s is there", address.GetName())
				}
				return nil
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			pool := provider.pool(s)
			machine := harness.Machine(s.ns, "cp-0", harness.WithPool(provider.label))
			s.create(machine)
			claim := provider.claim(s, "cp-0-0")
			s.eventually("the machine to adopt its claim", func(ctx context.Context) error { return s.isOwned(ctx, claim, machine) })
			address, err := provider.address(s, provider.first)
			if err != nil {
				t.Fatal(err)
			}
			s.annotate(machine, "cluster.x-k8s.io/paused", new(""))
			for _, object := range []client.Object{claim, address} {
				if err := s.env.Client.Delete(t.Context(), object); client.IgnoreNotFound(err) != nil {
					t.Fatal(err)
				}
				s.stripFinalizers(object)
			}
			s.annotate(pool, "example.org/touched", new("")) // which has metal3 count anew
			s.eventually("the address to be free", func(ctx context.Context) error {
				return errors.Join(s.env.Client.Get(ctx, client.ObjectKeyFromObject(pool), pool), provider.free(s, pool))
			})

			s.create(harness.Machine(s.ns, "cp-1", harness.WithPool(provider.label)))

			if got := s.ip("cp-1"); got == provider.first {
				t.Fatalf("the next machine got %s, which the first one has", got)
			}
			offered := provider.claim(s, "cp-1-0")
			if err := s.env.Client.Get(t.Context(), client.ObjectKeyFromObject(offered), offered); err != nil || ipam.MachineOf(offered) != "cp-0" {
				t.Fatalf("the claim that was answered with it is that of machine %q (%v), want cp-0", ipam.MachineOf(offered), err)
			}
			s.annotate(machine, "cluster.x-k8s.io/paused", nil)
			s.eventually("the machine to have its address again", func(ctx context.Context) error { return s.isOwned(ctx, offered, machine) })
			s.eventually("the machine to say so", func(context.Context) error {
				bindings, err := ipam.ParseBindings(s.machine("cp-0").Annotations[ipam.BindingsAnnotation])
				if err != nil || len(bindings.Bindings) != 1 || bindings.Bindings[0].Claim != offered.GetName() {
					return fmt.Errorf("it says that it holds %v (%w)", bindings, err)
				}
				return nil
			})
			if again, err := provider.address(s, provider.first); err != nil || !slices.Contains(again.GetFinalizers(), ipam.InUseFinalizer) {
				t.Errorf("its address is not protected: %v", err)
			}
			if n := len(s.claims()); n != 2 {
				t.Errorf("%d claims are there, want one for each machine", n)
			}
		})
	}
}

// isOwned returns an error unless the claim is the machine's.
func (s *scene) isOwned(ctx context.Context, claim, machine client.Object) error {
	if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(claim), claim); err != nil {
		return err
	}
	if owner := capi.OwnerMachine(claim); owner.UID != machine.GetUID() {
		return fmt.Errorf("its owners are %v", claim.GetOwnerReferences())
	}
	return nil
}
