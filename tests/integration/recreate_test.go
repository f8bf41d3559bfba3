package integration

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/tests/harness"
)

// recreateTime is when a claim that failed has been recreated for certain.
const recreateTime = 30*time.Second + harness.Soon

// restored is a machine as a backup or a move brings it: with its VM, its
// address and its bindings, and without the claim and the address object.
func (s *scene) restored(name string, pool ipam.PoolReference, ip string) *capvv1.VSphereMachine {
	s.Helper()
	bindings := ipam.Bindings{Machine: name, Bindings: []ipam.Binding{{
		Device: ipam.Device{NetworkName: "VM Network"}, Pool: pool,
		Claim: ipam.ClaimName(name, ipam.Slot{Device: 0}), Address: netip.MustParsePrefix(ip + "/24"),
	}}}
	text, err := bindings.Encode()
	if err != nil {
		s.Fatal(err)
	}
	machine := harness.Machine(s.ns, name, harness.WithProviderID("vsphere://"+s.ns+"-"+name),
		harness.WithDevices(harness.FixedDevice(ip+"/24")), harness.WithAnnotation(ipam.BindingsAnnotation, text))
	s.create(machine)
	return machine
}

func TestRestoredMachineGetsItsClaimBackForTheVeryAddress(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		ip := f.IP(91)

		machine := s.restored("cp-0", f.Reference(f.PoolName), ip)

		s.eventually("the claim to come back with its address", func(context.Context) error { return s.isFullyAdopted("cp-0", ip) })
		if note := s.told("cp-0", "ClaimRecreated"); !strings.Contains(note, ip) {
			t.Errorf("event ClaimRecreated says %q, want it to name the address", note)
		}
		claim, err := s.claim("cp-0")
		if err != nil {
			t.Fatal(err)
		}
		address, err := s.address(ip)
		if err != nil {
			t.Fatal(err)
		}
		if bound := f.Provider.ReadClaim(claim).Address; bound != address.GetName() || claim.GetAnnotations()[ipam.RecreatedAnnotation] != "" {
			t.Errorf("it names address %q, want %s, and has the annotations %v", bound, address.GetName(), claim.GetAnnotations())
		}
		s.delete(machine)
		s.gone(machine)
		s.returned(ip)
		s.noClaims()
	})
}

func TestRestoredMachineWhoseAddressAnotherHoldsGetsItWhenItIsFreed(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		other, ip := s.foreignClaim(f, "other"), f.IP(88)
		s.boundTo(other, ip)
		lost := s.metric("capv_static_ip_addresses_lost_total", nil)

		s.toleratesLostAddresses()
		s.restored("cp-0", f.Reference(f.PoolName), ip)

		if note := s.told("cp-0", "AddressLost"); !strings.Contains(note, ip) {
			t.Errorf("event AddressLost says %q, want it to name the address", note)
		}
		if got := s.metric("capv_static_ip_addresses_lost_total", nil); got <= lost {
			t.Errorf("%v losses are counted, want more than the %v before", got, lost)
		}
		s.eventually("each replica to tell of a lost address", s.tellOfLost)
		s.expectDevices("cp-0", harness.FixedDevice(ip+"/24"))
		// A claim of metal3 is what asks for the address, so there is one that failed.
		if f.Is(harness.OfInCluster) {
			s.expectClaims(1)
		}
		s.delete(other)
		s.gone(other)
		s.within(recreateTime, "the claim to be recreated, with its address", func(context.Context) error {
			return s.isFullyAdopted("cp-0", ip)
		})
	})
}

// The claim may have been kept for the machine by an earlier one, and has its name.
func TestClaimOfAnotherNameComesBackUnderTheMachinesOwn(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	text := func(claim string) string {
		bindings := ipam.Bindings{Machine: "cp-0", Bindings: []ipam.Binding{{
			Device: ipam.Device{NetworkName: "VM Network"}, Pool: metal3.PoolNamed(harness.DefaultPool),
			Claim: claim, Address: netip.MustParsePrefix("10.16.56.91/24"),
		}}}
		text, err := bindings.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}

	s.create(harness.Machine(s.ns, "cp-0", harness.WithProviderID("vsphere://"+s.ns),
		harness.WithDevices(harness.FixedDevice("10.16.56.91/24")), harness.WithAnnotation(ipam.BindingsAnnotation, text("earlier-0"))))

	s.eventually("the claim to come back with its address", func(context.Context) error { return s.isFullyAdopted("cp-0", "10.16.56.91") })
	if got, want := s.machine("cp-0").Annotations[ipam.BindingsAnnotation], text("cp-0-0"); got != want {
		t.Errorf("the annotation is\n%s\nwant\n%s", got, want)
	}
}

func TestAddressThatALivingMachineUsesIsNotGivenToANewOne(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pool func(*scene) ipam.PoolReference
		// holder is a scene in whose namespace the living machine is.
		holder func(*scene) *scene
		denial string
	}{
		"of a pool of the namespace": {
			pool: func(s *scene) ipam.PoolReference {
				s.inClusterPool(harness.InClusterAddresses(inClusterFirst))
				return contract.InClusterPool(harness.DefaultInClusterPool)
			},
			holder: func(s *scene) *scene { return s },
			denial: inClusterName + ` is exhausted: 1 of 1 addresses in use; add addresses to the pool or delete a machine that holds one`,
		},
		"of a global pool, in another namespace": {
			pool: func(s *scene) ipam.PoolReference {
				pool := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses(inClusterFirst))
				s.create(harness.Cluster(s.ns, harness.DefaultCluster))
				s.createGlobal(pool)
				return ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: harness.GlobalInClusterPoolKind, Name: s.ns}
			},
			holder: func(s *scene) *scene {
				holder := s.neighbour()
				holder.create(harness.Cluster(holder.ns, harness.DefaultCluster))
				return holder
			},
			denial: `GlobalInClusterIPPool "NAMESPACE" is exhausted: 1 of 1 addresses in use; add addresses to the pool or delete a machine that holds one`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			pool := test.pool(s)
			holder := test.holder(s)
			old := holder.restored("old", pool, inClusterFirst)
			holder.told("old", "ClaimRecreated")
			ref := withPoolOf("0", pool.Kind+"/"+pool.Name)

			for i := range tries {
				s.expectDenial(s.env.Client.Create(t.Context(), harness.Machine(s.ns, refusedName(i), ref)), test.denial)
			}

			s.delete(old)
			holder.gone(old)
			s.eventually("the address to be given", func(ctx context.Context) error {
				return s.env.Client.Create(ctx, harness.Machine(s.ns, "next", ref))
			})
			if got := s.ip("next"); got != inClusterFirst {
				t.Errorf("the next machine got %s, want %s", got, inClusterFirst)
			}
		})
	}
}

func TestGlobalAddressThatAMachineOfAnotherNamespaceUsesIsNotFreed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses(inClusterFirst))
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))
	s.createGlobal(pool)
	ref := ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: harness.GlobalInClusterPoolKind, Name: pool.GetName()}
	holder := s.neighbour()
	holder.create(harness.Cluster(holder.ns, harness.DefaultCluster))
	holder.restored("cp-0", ref, inClusterFirst)
	holder.eventually("the claim of the first machine to be recreated", func(context.Context) error { return holder.isAdopted("cp-0", inClusterFirst) })

	s.toleratesLostAddresses()
	machine := s.restored("cp-0", ref, inClusterFirst)
	s.told("cp-0", "AddressLost")

	s.delete(machine)
	s.gone(machine)
	s.noClaims()
	s.consistently("the other machine keeps it", func(context.Context) error { return holder.isAdopted("cp-0", inClusterFirst) })
}

// toleratesLostAddresses removes, before the invariants are looked at, the
// machines of the scene whose addresses are lost: that is what they show.
func (s *scene) toleratesLostAddresses() {
	s.Helper()
	s.Cleanup(func() {
		ctx := context.Background()
		list := &capvv1.VSphereMachineList{}
		if err := s.env.Client.List(ctx, list, client.InNamespace(s.ns)); err != nil {
			s.Error(err)
		}
		for i := range list.Items {
			err := client.IgnoreNotFound(s.env.Client.Delete(ctx, &list.Items[i]))
			if err := errors.Join(err, harness.WaitGone(ctx, s.env.Client, &list.Items[i], harness.Soon)); err != nil {
				s.Error(err)
			}
		}
	})
}
