package integration

import (
	"context"
	"fmt"
	"testing"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// hasClaimed gives a machine that waits what an earlier try for it would have claimed of a
// pool: bound and protected, and not yet on a device.
func (s *scene) hasClaimed(f harness.Fixture, machine *capvv1.VSphereMachine) (claim client.Object, ip string) {
	s.Helper()
	claim = f.Claim(s.ns, ipam.ClaimName(machine.Name, ipam.Slot{}), f.PoolName, harness.WithOwner(machine), harness.WithFinalizer(ipam.InUseFinalizer))
	ipam.Mark(claim, ipam.Machine{NamespacedName: s.key(machine.Name), Cluster: harness.DefaultCluster})
	s.create(claim)
	address := s.bind(claim)
	s.change(address.Object, func() {
		ipam.Protect(address.Object, machine.Name)
		harness.WithAnnotation(ipam.MachineUIDAnnotation, string(machine.UID))(address.Object)
		harness.WithAnnotation(ipam.NetworkAnnotation, sharedNetwork+" of "+networkOwner(s.ns))(address.Object)
	})
	return claim, address.IP
}

// Its protected address would be in the way of the machine's own next claim.
func TestLateMachineWhoseClaimWasDeletedIsServed(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		machine := s.asks(f, "cp-0", harness.WithOwner(s.capiMachine("cp-0")))
		s.create(machine)
		claim, _ := s.hasClaimed(f, machine)
		s.delete(claim)

		s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })

		s.served("cp-0", 1)
		s.settled("cp-0")
	})
}

// It asked for a pool of the other claim API before.
func TestLateMachineGivesUpWhatItDoesNotUse(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		other := harness.OfInCluster
		if f.PoolName == other.PoolName {
			other = harness.OfMetal3
		}
		s.create(other.Pool(s.ns))
		machine := s.asks(f, "cp-0", harness.WithOwner(s.capiMachine("cp-0")))
		s.create(machine)
		_, unused := s.hasClaimed(other, machine)

		s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })

		s.served("cp-0", 1)
		s.eventually("the other claim to be given up", func(context.Context) error {
			if claims := s.claims(); len(claims) != 1 {
				return fmt.Errorf("there are the claims %v", names(claims))
			}
			return nil
		})
		if ip := s.settled("cp-0"); ip != unused {
			s.returned(unused)
		}
	})
}

// The leader that has claimed it died before it could write it into the machine.
func TestLateMachineThatIsTooLateGivesBackWhatWasClaimed(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		machine := s.asks(f, "cp-0", harness.WithOwner(s.capiMachine("cp-0")))
		s.create(machine)
		_, ip := s.hasClaimed(f, machine)
		vm := harness.VSphereVM(machine)
		vm.Spec.BiosUUID = "4234b5c2-8b0a-4b1e-9c1f-2f2d3c4b5a69"
		s.create(vm)

		s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })

		s.told("cp-0", "TooLate")
		s.noClaims()
		s.returned(ip)
		if s.machine("cp-0").Annotations[ipam.GivenUpAnnotation] == "" {
			t.Error("it was not fenced off from other leaders")
		}
	})
}

// It is not due any more: nothing but its claim leads to it, when the next leader finds that.
func TestMachineWithAVirtualMachineGivesBackWhatWasClaimedUnlessThatHasIt(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		machine := s.asks(f, "cp-0", harness.WithOwner(s.capiMachine("cp-0")))
		s.create(machine)
		claim, ip := s.hasClaimed(f, machine)
		vm := harness.VSphereVM(machine)
		vm.Spec.Network.Devices[0].IPAddrs = []string{ip + "/24"}
		s.create(vm)
		s.change(machine, func() { machine.Spec.ProviderID = "vsphere://4234b5c2-8b0a-4b1e-9c1f-2f2d3c4b5a69" })

		s.annotate(claim, "example.org/found", new("once"))
		s.consistently("the claim stays for the VM", func(ctx context.Context) error {
			return s.env.Client.Get(ctx, client.ObjectKeyFromObject(claim), claim)
		})

		s.change(vm, func() { vm.Spec.Network.Devices[0].IPAddrs = nil })
		s.annotate(claim, "example.org/found", new("again"))
		s.noClaims()
		s.returned(ip)
	})
}
