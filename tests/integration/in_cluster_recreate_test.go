package integration

import (
	"context"
	"fmt"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/tests/harness"
)

// The provider may hand out an address while it is being recreated: its cache does
// not have that yet. It must not stay so.
func TestAddressesRecreatedWhileOthersAreClaimedAreNobodyElses(t *testing.T) {
	t.Parallel()
	const machines = 24
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses("10.16.57.100-10.16.57.199"))
	s.toleratesLostAddresses()

	// They have the very addresses that the provider hands out next.
	for i := range machines {
		s.foreignClaim(harness.OfInCluster, fmt.Sprintf("other-%d", i))
		s.restored(fmt.Sprintf("m-%d", i), contract.InClusterPool(harness.DefaultInClusterPool), fmt.Sprintf("10.16.57.%d", 100+2*i))
	}

	s.within(recreateTime, "each machine to have its address, or be told that it is lost", func(context.Context) error {
		for i := range machines {
			name := fmt.Sprintf("m-%d", i)
			if s.isAdopted(name, fmt.Sprintf("10.16.57.%d", 100+2*i)) == nil {
				continue
			}
			told := false
			for _, event := range s.eventsAbout("VSphereMachine", name) {
				told = told || event.Reason == "AddressLost"
			}
			if claim, err := s.claim(name); err == nil {
				return fmt.Errorf("claim %s is %s", claim.GetName(), claim.GetAnnotations())
			}
			if !told {
				return fmt.Errorf("%s has neither", name)
			}
		}
		return s.heldOnce()
	})
	adopted := 0
	for i := range machines {
		if s.isAdopted(fmt.Sprintf("m-%d", i), fmt.Sprintf("10.16.57.%d", 100+2*i)) == nil {
			adopted++
		}
	}
	t.Logf("%d of %d have their addresses, the others were told", adopted, machines)
}

// heldOnce returns an error if two objects are for one address.
func (s *scene) heldOnce() error {
	seen := map[string]string{}
	for _, address := range s.addresses() {
		ip := harness.ProviderOf(address).ReadAddress(address).IP
		if other := seen[ip]; other != "" {
			return fmt.Errorf("%s and %s are both for %s", other, address.GetName(), ip)
		}
		seen[ip] = address.GetName()
	}
	return nil
}

// The pool gave the lost address to somebody else's claim, and whoever found it in
// use has marked that for the machine which uses it.
func TestLostAddressThatCameBackOnAnotherClaimIsTheMachinesAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	other := harness.Claim(s.ns, "other-0", harness.DefaultPool)
	harness.WithAnnotation("ipAddress", "10.16.56.91")(other)
	s.create(other)
	s.bind(other)
	machine := s.restored("cp-0", metal3.PoolNamed(harness.DefaultPool), "10.16.56.91")
	s.told("cp-0", "AddressLost")

	s.change(other, func() {
		ipam.Mark(other, ipam.Machine{NamespacedName: s.key("cp-0")})
		kube.SetAnnotation(other, ipam.RequestedByAnnotation, "none")
		ipam.Use(other, ipam.Stamp{Request: "test"})
	})

	s.eventually("the machine to adopt that claim", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(other), other); err != nil {
			return err
		}
		if owner := capi.OwnerMachine(other); owner.UID != machine.UID {
			return fmt.Errorf("its owner is %v", other.OwnerReferences)
		}
		bindings, err := ipam.ParseBindings(s.machine("cp-0").Annotations[ipam.BindingsAnnotation])
		if err != nil || len(bindings.Bindings) != 1 || bindings.Bindings[0].Claim != "other-0" {
			return fmt.Errorf("the machine says that it holds %v (%w)", bindings, err)
		}
		if claims := s.claims(); len(claims) != 1 {
			return fmt.Errorf("there are the claims %v", names(claims))
		}
		return s.isProtected("10.16.56.91")
	})
	s.delete(machine)
	s.gone(machine)
	s.returned("10.16.56.91")
	s.noClaims()
}
