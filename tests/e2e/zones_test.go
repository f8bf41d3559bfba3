package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// threeZones makes a failure domain in each zone, each with a pool of four addresses that
// the zone asks for, and has the control plane spread over them.
func (s *scene) threeZones(by harness.Fixture) []domainIn {
	s.Helper()
	var domains []domainIn
	for i := range stack.Zones() {
		pool, first := fmt.Sprintf("zone-%d", i), byte(10*(i+1))
		domain := s.zone(i, asks(0, ref(by, pool)))
		s.create(s.pool(by, pool, first, first+3, harness.WithAnnotation(ipam.FailureDomainsAnnotation, domain.name)))
		domains = append(domains, domain)
	}
	s.spread(domains...)
	return domains
}

// expectSpread checks that each of so many control plane machines is in a failure domain
// of its own, see threeZones.
func (s *scene) expectSpread(domains []domainIn) {
	s.Helper()
	nodes, err := s.stack.AwaitControlPlane(s.Context(), s.ns, len(domains), provisioned)
	if err != nil {
		s.Fatal(err)
	}
	var used []int
	for _, node := range nodes {
		name := s.machineOf(node).Spec.FailureDomain
		i := slices.IndexFunc(domains, func(domain domainIn) bool { return domain.name == name })
		if i < 0 {
			s.Fatalf("machine %s is in failure domain %q", node.Machine.Name, name)
		}
		first := byte(10 * (i + 1))
		s.expectPlaced(node, domains[i], s.addresses(first, first+3))
		used = append(used, i)
	}
	if slices.Sort(used); len(slices.Compact(used)) != len(domains) {
		s.Errorf("the machines are in the failure domains %v, want one in each", used)
	}
}

func TestControlPlaneOfThreeZonesGetsAddressesOfItsZones(t *testing.T) {
	harness.ForOneProvider(t, harness.OfInCluster, func(t *testing.T, by harness.Fixture) {
		s := newBootstrappedScene(t)
		domains := s.threeZones(by)
		template := s.template("control-plane")
		controlPlane := s.controlPlane(template, 3)
		s.create(template, controlPlane)

		s.awaitControlPlane(3, "v1.36.3")

		s.expectSpread(domains)
		s.delete(controlPlane)
		s.gone(controlPlane, bootstrapped)
		s.awaitFree()
	})
}

func TestZonedControlPlaneRollsOut(t *testing.T) {
	t.Parallel()
	s := newBootstrappedScene(t)
	domains := s.threeZones(harness.OfMetal3)
	template := s.template("control-plane")
	controlPlane := s.controlPlane(template, 3)
	s.create(template, controlPlane)
	s.awaitControlPlane(3, "v1.36.3")

	patch(s, controlPlane, func(controlPlane *unstructured.Unstructured) {
		if err := unstructured.SetNestedField(controlPlane.Object, "v1.36.4", "spec", "version"); err != nil {
			t.Fatal(err)
		}
	})

	s.awaitControlPlane(3, "v1.36.4")
	s.expectSpread(domains)
	s.delete(controlPlane)
	s.gone(controlPlane, bootstrapped)
	s.awaitFree()
}

func TestControlPlaneWithOneStretchedPoolIsServedAtBirth(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared, withControlPlane)
		domains := []domainIn{s.zone(0, nil), s.zone(1, nil), s.zone(2, nil)}
		s.spread(domains...)
		template := s.template("control-plane", by.Ask("stretched"))
		stored := s.watchMachines()
		controlPlane := s.controlPlane(template, 1)
		s.create(s.pool(by, "stretched", 10, 13), template, controlPlane)

		if got, want := harness.Addresses(s.firstOf(stored)), s.addresses(10, 10); !slices.Equal(got, want) {
			t.Errorf("the machine was stored with %v, want %v", got, want)
		}
		s.controlPlaneNodes(1)
		s.delete(controlPlane)
		s.gone(controlPlane, provisioned)
		s.awaitFree()
	})
}

func TestWorkersOfAZoneAreBornWithItsAddresses(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared)
		// One asks for its pool, the pool of the other knows its network.
		first, second := s.zone(0, asks(0, ref(by, "first"))), s.zone(1, nil)
		s.create(s.pool(by, "first", 10, 13), s.pool(by, "second", 20, 23, harness.WithAnnotation(ipam.NetworksAnnotation, second.Network)))
		template := s.template("workers", by.Ask("second"))
		workers, others := s.workersIn(first, template, "md-0", 2), s.workersIn(second, template, "md-1", 1)
		stored := s.watchMachines()
		s.create(template, workers)
		if held := harness.Addresses(s.firstOf(stored)); len(held) != 1 {
			t.Errorf("the machine was stored with %v, want an address", held)
		}
		s.create(others)

		for _, node := range s.nodes(workers) {
			s.expectPlaced(node, first, s.addresses(10, 13))
		}
		for _, node := range s.nodes(others) {
			s.expectPlaced(node, second, s.addresses(20, 23))
		}
	})
}

func TestZoneThatHasDHCPIsLeftAlone(t *testing.T) {
	s := newScene(t, shared)
	on := true
	zone := s.zone(0, nil, configured(func(c *capvv1.NetworkConfiguration) { c.DHCP4 = &on }))
	template := s.template("workers", harness.WithPool("none"))
	workers := s.workersIn(zone, template, "md-0", 1)
	s.create(template, workers)

	nodes, err := s.stack.AwaitNodes(t.Context(), workers, provisioned)
	if err != nil {
		t.Fatal(err)
	}

	if node := nodes[0]; len(harness.Addresses(node.Machine)) > 0 || !slices.Equal(node.VM.Networks, []string{zone.Network}) {
		t.Errorf("machine %s has %v on %v, want it on DHCP", node.Machine.Name, harness.Addresses(node.Machine), node.VM.Networks)
	}
	s.expectNoClaims()
}

func TestZoneThatHasAddressesFromPoolsIsLeftAlone(t *testing.T) {
	s := newScene(t, shared)
	by := harness.OfInCluster
	pool := by.Reference("zone")
	zone := s.zone(0, nil, configured(func(c *capvv1.NetworkConfiguration) {
		c.AddressesFromPools = []capvv1.IPPoolReference{{APIGroup: pool.APIGroup, Kind: pool.Kind, Name: pool.Name}}
	}))
	template := s.template("workers", by.Ask("zone"))
	workers := s.workersIn(zone, template, "md-0", 1)
	s.create(s.pool(by, "zone", 10, 13), template, workers)

	nodes, err := s.stack.AwaitNodes(t.Context(), workers, provisioned)
	if err != nil {
		t.Fatal(err)
	}

	if held := harness.Addresses(nodes[0].Machine); len(held) > 0 {
		t.Errorf("machine %s has %v, want the address on the virtual machine alone", nodes[0].Machine.Name, held)
	}
	if got := nodes[0].VM.Addresses; !slices.Equal(got, s.addresses(10, 10)) {
		t.Errorf("the virtual machine has %v, want one address of CAPV's", got)
	}
	claims := &capiipamv1.IPAddressClaimList{}
	s.list(claims)
	if len(claims.Items) != 1 || claims.Items[0].OwnerReferences[0].Kind != "VSphereVM" {
		t.Errorf("there are the claims %v, want one, CAPV's", claims.Items)
	}
	s.delete(workers)
	s.gone(workers, provisioned)
}

// Admission is not asked about machines that have DHCP in their template.
func TestZoneThatTakesDHCPAwayIsServedLate(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared)
		off := false
		zone := s.zone(0, asks(0, ref(by, "late")), configured(func(c *capvv1.NetworkConfiguration) { c.DHCP4 = &off }))
		template := s.template("workers", func(object client.Object) {
			object.(*capvv1.VSphereMachineTemplate).Spec.Template.Spec.Network.Devices = []capvv1.NetworkDeviceSpec{harness.DHCPDevice()}
		})
		workers := s.workersIn(zone, template, "md-0", 2)
		s.create(s.pool(by, "late", 10, 13), template, workers)

		for _, node := range s.nodes(workers) {
			s.expectPlaced(node, zone, s.addresses(10, 13))
			if strings.Contains(node.VM.Metadata, "dhcp4: true") {
				t.Errorf("the virtual machine of %s has DHCP beside its address:\n%s", node.Machine.Name, node.VM.Metadata)
			}
		}
	})
}

// Failure domains have no namespace and belong to no Cluster: they are moved where a label
// says so, as docs/move.md tells. Machines that are made in the target are given the
// addresses of their zone there.
func TestMovedMachinesOfAZoneKeepItsAddresses(t *testing.T) {
	harness.ForOneProvider(t, harness.OfMetal3, func(t *testing.T, by harness.Fixture) {
		options := []harness.Option{}
		if by.Is(harness.OfMetal3) {
			options = append(options, ofItsCluster)
		}
		r := newUnpeopled(t, by, 0, options...)
		zone := r.zone(0, asks(0, ref(by, "workers")))
		r.labelToMove(zone)
		template := r.template("workers")
		r.people(template, r.workersIn(zone, template, "md-moved", relocated))
		t.Cleanup(func() { r.target.dropZone(zone) })

		r.move()

		r.checkKept()
		r.checkNothingLeft()
		r.checkNewMachineOnTheFreeAddress()
		for _, node := range r.target.nodes(r.workers) {
			r.target.expectPlaced(node, zone, r.addresses(10, 10+relocated))
		}
		r.checkReleased()
	})
}

// The machine waits in its zone, and its owner is told.
func TestFullPoolOfAZoneHoldsItsMachineUp(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared, withControlPlane)
		domains := []domainIn{s.zone(0, asks(0, ref(by, "zone-0"))), s.zone(1, asks(0, ref(by, "zone-1")))}
		s.spread(domains...)
		claims := map[string]client.Object{}
		for i, domain := range domains {
			pool := fmt.Sprintf("zone-%d", i)
			claims[domain.name] = by.Claim(s.ns, "foreign-"+pool, pool)
			s.create(s.pool(by, pool, byte(10+i), byte(10+i)), claims[domain.name])
			if _, err := s.boundTo(by, "foreign-"+pool); err != nil {
				t.Fatal(err)
			}
		}
		template := s.template("control-plane")
		controlPlane := s.controlPlane(template, 1)
		s.create(template, controlPlane)
		s.eventually(provisioned, "the machine to be told that its pool is full", func(ctx context.Context) error {
			events, err := s.eventsAbout(ctx, "VSphereMachine", ipam.PoolExhausted)
			if err == nil && len(events) == 0 {
				err = errors.New("there is no event")
			}
			return err
		})
		machines := &clusterv1.MachineList{}
		s.list(machines)
		if len(machines.Items) != 1 {
			t.Fatalf("there are %d Machines, want one", len(machines.Items))
		}

		s.delete(claims[machines.Items[0].Spec.FailureDomain])

		s.controlPlaneNodes(1)
		s.delete(controlPlane)
		s.gone(controlPlane, provisioned)
		for _, claim := range claims {
			if err := s.stack.Plane.Client.Delete(t.Context(), claim); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
		s.awaitFree()
	})
}
