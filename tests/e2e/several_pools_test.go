package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// asks is the annotation that asks for a device.
func asks(device int, text string) harness.Option {
	return harness.WithAnnotation(fmt.Sprintf("%s%d", ipam.PoolsAnnotationPrefix, device), text)
}

// ref is how an annotation names a pool of a provider.
func ref(of harness.Fixture, pool string) string { return of.Reference(pool).Kind + "/" + pool }

// besides is the other provider.
func besides(f harness.Fixture) harness.Fixture {
	if f.Is(harness.OfInCluster) {
		return harness.OfMetal3
	}
	return harness.OfInCluster
}

func TestDualStackMachineReachesItsVirtualMachine(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		other := besides(provider)
		six := s.pool(other, "six", 10, 19, harness.WithRange(s.address6(0x10), s.address6(0x19)), harness.WithPrefix(64), harness.WithGateway(s.address6(1)))
		template := s.template("workers", asks(0, ref(provider, "four")+", "+ref(other, "six")))
		workers := s.workers(template, "md-0", 2)
		s.create(s.pool(provider, "four", 10, 19), six, template, workers)

		for _, node := range s.nodes(workers) {
			if held := harness.Addresses(node.Machine); len(held) != 2 || !s.network.Contains(netip.MustParsePrefix(held[0]).Addr()) || !s.network6().Contains(netip.MustParsePrefix(held[1]).Addr()) {
				t.Errorf("machine %s has %v, want one of each family", node.Machine.Name, held)
			}
			for _, told := range []string{"gateway4: " + s.address(1), "gateway6: " + s.address6(1)} {
				if !strings.Contains(strings.ReplaceAll(node.VM.Metadata, `"`, ""), told) {
					t.Errorf("the virtual machine of %s is not told %q:\n%s", node.Machine.Name, told, node.VM.Metadata)
				}
			}
		}
		s.delete(workers)
		s.gone(workers, provisioned)
		s.awaitFree()
	})
}

func TestTwoNetworksOfAMachineGetAddressesOfTheirOwnPools(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		networks := []string{"VM Network", "DC0_DVPG0"}
		group := harness.WithLabel(ipam.PoolGroupLabel, "prod")
		first, second := harness.StaticDevice(), harness.StaticDevice()
		first.NetworkName, second.NetworkName = networks[0], networks[1]
		template := s.template("workers", group, harness.WithDevices(first, second))
		workers := s.workers(template, "md-0", 2)
		s.create(
			s.pool(provider, "b-first", 10, 19, group, harness.WithAnnotation(ipam.NetworksAnnotation, networks[0])),
			s.pool(provider, "a-second", 20, 29, group, harness.WithAnnotation(ipam.NetworksAnnotation, networks[1]), harness.WithGateway("")),
			template, workers)

		for _, node := range s.nodes(workers) {
			for i, from := range []byte{10, 20} {
				ips := node.Machine.Spec.Network.Devices[i].IPAddrs
				if len(ips) != 1 || !slices.Contains(s.addresses(from, from+9), ips[0]) {
					t.Errorf("device %d of %s, on %q, has %v, want one of the pool of its network", i, node.Machine.Name, networks[i], ips)
				}
			}
		}
	})
}

func TestMovedMachinesKeepSeveralAddressesOfADevice(t *testing.T) {
	harness.ForOneProvider(t, harness.OfInCluster, func(t *testing.T, provider harness.Fixture) {
		text := ref(provider, "workers") + "," + ref(provider, "workers")
		options := []harness.Option{}
		if provider.Is(harness.OfMetal3) {
			options = append(options, ofItsCluster)
		}
		r := newRelocationAsking(t, provider, asks(0, text), relocated+1, options...)

		r.move()

		r.checkKept()
		r.checkNothingLeft()
		r.checkNewMachineOnTheFreeAddress()
		r.checkReleased()
	})
}

// A pool of one address is a given address with any provider.
func TestPoolOfOneKeepsTheAddressThroughARollOutWithoutSurge(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		template := s.template("workers", provider.Ask("pool"))
		workers := s.workers(template, "md-0", 1)
		none, one := intstr.FromInt32(0), intstr.FromInt32(1)
		workers.Spec.Rollout.Strategy.Type = clusterv1.RollingUpdateMachineDeploymentStrategyType
		workers.Spec.Rollout.Strategy.RollingUpdate.MaxSurge = &none
		workers.Spec.Rollout.Strategy.RollingUpdate.MaxUnavailable = &one
		s.create(s.pool(provider, "pool", 88, 88), template, workers)
		before := s.nodes(workers)[0]
		larger := s.template("larger", provider.Ask("pool"))
		larger.Spec.Template.Spec.MemoryMiB *= 2
		s.create(larger)

		patch(s, workers, func(workers *clusterv1.MachineDeployment) {
			workers.Spec.Template.Spec.InfrastructureRef.Name = larger.Name
		})

		s.replaced(workers, func(machine *capvv1.VSphereMachine) bool { return machine.Name != before.Machine.Name })
		if got, want := harness.Addresses(s.nodes(workers)[0].Machine), harness.Addresses(before.Machine); !slices.Equal(got, want) {
			t.Errorf("the new machine has %v, want %v", got, want)
		}
	})
}

// A machine that is given two addresses later is never stored, and no virtual machine is
// told, with one of them.
func TestDualStackNeverHalf(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := s.template("workers")
	workers := s.workers(template, "md-0", 3)
	waiters, held := s.watchWaiting(), s.watchAddresses()
	s.create(s.pool(harness.OfMetal3, "pool", 10, 19), template, workers)
	s.eventually(provisioned, "VMs that wait for an address", func(context.Context) error {
		seen, err := waiters.list()
		if len(seen) == 0 {
			return errors.Join(errors.New("there are none"), err)
		}
		return err
	})

	// Until now nobody asked.
	patch(s, template, func(template *capvv1.VSphereMachineTemplate) { asks(0, "IPPool/pool,IPPool/pool")(template) })

	s.nodes(workers)
	events, err := s.events(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range events {
		if len(event.Addresses) == 1 {
			t.Errorf("virtual machine %s was %s with %v, want never one of two", event.Name, event.Kind, event.Addresses)
		}
	}
	states, err := held.list()
	if err != nil || len(states) != 2 || !slices.Contains(states, "none") || !slices.Contains(states, "2 addresses") {
		t.Errorf("machines were seen with %q and error %v, want none, and then 2 addresses", states, err)
	}
}
