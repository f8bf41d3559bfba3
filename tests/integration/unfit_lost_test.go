package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// Claim and address were taken away by force while the controller was kept from
// mending that. The provider offers the address to the next machine that asks.
func TestAddressThatAMachineLostIsItsAgainWhenTheNextOneIsOfferedIt(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool, first := s.pool(f), f.IP(88)
		machine := s.asks(f, "cp-0")
		s.create(machine)
		claim := f.Claim(s.ns, "cp-0-0", f.PoolName)
		s.eventually("the machine to adopt its claim", func(ctx context.Context) error { return s.isOwned(ctx, claim, machine) })
		address, err := s.address(first)
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
			return errors.Join(s.env.Client.Get(ctx, client.ObjectKeyFromObject(pool), pool), s.isFreeIn(pool, first))
		})

		s.create(s.asks(f, "cp-1"))

		if got := s.ip("cp-1"); got == first {
			t.Fatalf("the next machine got %s, which the first one has", got)
		}
		offered := f.Claim(s.ns, "cp-1-0", f.PoolName)
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
		if err := s.isProtected(first); err != nil {
			t.Errorf("its address is not protected: %v", err)
		}
		if n := len(s.claims()); n != 2 {
			t.Errorf("%d claims are there, want one for each machine", n)
		}
	})
}

// isFreeIn returns an error while the provider counts an address of its pool as
// used. metal3 says so in the pool.
func (s *scene) isFreeIn(pool client.Object, ip string) error {
	if pool, ok := pool.(*ipamv1.IPPool); ok {
		if used := pool.Status.Allocations; len(used) > 0 {
			return fmt.Errorf("it says that %v are used", used)
		}
		return nil
	}
	if address, err := s.address(ip); err == nil {
		return fmt.Errorf("%s is there", address.GetName())
	}
	return nil
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
