package integration

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

func TestWorkersOfAFailureDomainAreBornWithItsAddresses(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := zonedScene(t)
		s.create(harness.Cluster(s.ns, harness.DefaultCluster), harness.Template(s.ns, "workers", f.Ask("pool-c")))
		s.zonePool(f, "pool-a", 40)
		s.zonePool(f, "pool-b", 50)
		s.zonePool(f, "pool-c", 60)
		for name, test := range map[string]struct {
			zone string
			want int
		}{
			"a": {s.zone("a", nil, onZone(withPoolOf("0", fullName(f, "pool-a"))), onDomain(withPoolOf("0", "none"))), 40},
			"b": {s.zone("b", nil, onDomain(withPoolOf("0", fullName(f, "pool-b")))), 50},
			"c": {s.zone("c", nil), 60},
		} {
			owner := s.machineSet("md-"+name, inDomain(test.zone))
			s.create(harness.Machine(s.ns, "md-"+name+"-0", harness.FromTemplate("workers"), harness.WithOwner(owner)))

			if ip := s.ip("md-" + name + "-0"); ip != f.IP(test.want) {
				t.Errorf("the machine of zone %s has %s, want %s", name, ip, f.IP(test.want))
			}
		}
		s.settled("md-a-0")
	})
}

func TestPoolOfAnotherFailureDomainIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := zonedScene(t)
		a, b := s.zone("a", nil), s.zone("b", nil)
		s.pool(f, harness.WithAnnotation(ipam.FailureDomainsAnnotation, a))
		only := func(says string) string {
			return fmt.Sprintf("%s is for failure domains %q only, and %s: name another pool in %s, or correct annotation capv-static-ip.dev/failure-domains of the pool",
				poolText(f), a, says, f.AskedBy)
		}

		s.denyTen(only(fmt.Sprintf(`MachineSet "md-b" is for %q`, b)), f.Ask(f.PoolName), harness.WithOwner(s.machineSet("md-b", inDomain(b))))
		s.denyTen(only("the machine has none"), f.Ask(f.PoolName), harness.WithOwner(s.machineSet("md-0")))

		s.expectNoClaims()
		s.create(s.asks(f, "md-a-0", harness.WithOwner(s.machineSet("md-a", inDomain(a)))))
	})
}

func TestPoolForFailureDomainsIsDeniedWhereThereAreNone(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, func(pool *ipamv1.IPPool) {
		harness.WithAnnotation(ipam.FailureDomainsAnnotation, "zone-a")(pool)
	}))

	s.refused(s.pooled("md-0", harness.WithOwner(s.machineSet("md", inDomain("zone-a")))), `is for failure domains "zone-a" only, and the machine has none`)

	s.expectNoClaims()
}

func TestNetworkOfADeviceIsThatOfItsFailureDomain(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := zonedScene(t)
		segA, segB := "seg-a of "+s.ns, "seg-b of "+s.ns
		a, b := s.machineSet("md-a", inDomain(s.zone("a", []string{segA}))), s.machineSet("md-b", inDomain(s.zone("b", []string{segB})))
		s.pool(f, harness.WithAnnotation(ipam.NetworksAnnotation, segA))
		device := onNetwork("seg-x of " + s.ns)

		s.refused(s.asks(f, "md-b-0", harness.WithOwner(b), harness.WithDevices(device)),
			fmt.Sprintf("is for networks %q only, and device 0 is on %q", segA, segB))
		s.create(s.asks(f, "md-a-0", harness.WithOwner(a), harness.WithDevices(device)))

		if got := s.machine("md-a-0").Spec.Network.Devices[0].NetworkName; got != device.NetworkName {
			t.Errorf("the device is on %q now, want it as it was", got)
		}
		s.settled("md-a-0")
	})
}

func TestRequestOfAZoneThatIsNotUnderstoodIsDenied(t *testing.T) {
	t.Parallel()
	s := zonedScene(t)
	a := s.zone("a", nil, onZone(withPoolOf("0", "a/b/c")))

	s.refused(harness.Machine(s.ns, "md-a-0", harness.WithOwner(s.machineSet("md-a", inDomain(a)))),
		fmt.Sprintf("annotation pools.capv-static-ip.dev/0 of VSphereDeploymentZone %q is not", a))

	s.expectNoClaims()
}

// expectDeferred makes a machine, first in a dry run, that is to get its addresses later.
func (s *scene) expectDeferred(name string, options ...harness.Option) {
	s.Helper()
	c, warned := s.warnedClient()
	for _, how := range [][]client.CreateOption{{client.DryRunAll}, nil} {
		machine := harness.Machine(s.ns, name, options...)
		before := machine.DeepCopy()
		if err := c.Create(s.Context(), machine, how...); err != nil {
			s.Fatal(err)
		}
		warned.expect(s, warnDeferred)
		expectSame(s, "the devices", machine.Spec.Network.Devices, before.Spec.Network.Devices)
		if len(machine.Finalizers) > 0 || machine.Annotations[ipam.BindingsAnnotation] != "" {
			s.Errorf("machine %s has the finalizers %v and the annotations %v", name, machine.Finalizers, machine.Annotations)
		}
	}
	s.expectNoClaims()
}

func TestControlPlaneWhoseFailureDomainDecidesGetsNoAddressYet(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, test := range map[string]struct {
			onZoneA func(*scene) harness.Option
			onPool  func(*scene) harness.Option
		}{
			"by what a zone asks for": {onZoneA: func(*scene) harness.Option { return onZone(withPoolOf("0", fullName(f, "other"))) }},
			"by what the pool is for": {onPool: func(s *scene) harness.Option {
				return harness.WithAnnotation(ipam.FailureDomainsAnnotation, s.ns+"-a")
			}},
			"by the networks of a pool": {
				onZoneA: func(*scene) harness.Option {
					return configured(capvv1.NetworkConfiguration{NetworkName: "seg-a"})
				},
				onPool: func(*scene) harness.Option { return harness.WithAnnotation(ipam.NetworksAnnotation, "seg-a") },
			},
			"by DHCP in a zone": {onZoneA: func(*scene) harness.Option {
				return configured(capvv1.NetworkConfiguration{NetworkName: "seg-a", DHCP4: new(true)})
			}},
		} {
			t.Run(name, func(t *testing.T) {
				s := zonedScene(t)
				var zoneA, pool []harness.Option
				if test.onZoneA != nil {
					zoneA = append(zoneA, test.onZoneA(s))
				}
				if test.onPool != nil {
					pool = append(pool, test.onPool(s))
				}
				made := s.controlPlaneIn(s.zone("a", nil, zoneA...), s.zone("b", nil))
				s.zonePool(f, "one", 10, pool...)
				s.create(harness.Template(s.ns, "cp", f.Ask("one")))

				s.expectDeferred("cp-0", append(made, harness.FromTemplate("cp"))...)
			})
		}
	})
}

func TestControlPlaneIsBornWithAnAddressThatIsTheSameInAllItsFailureDomains(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, domains := range map[string]int{"three": 3, "none": 0} {
			t.Run("of "+name, func(t *testing.T) {
				s := zonedScene(t)
				// Zones that are not its Cluster's play no part.
				s.zone("x", nil, onZone(withPoolOf("0", "other")))
				var zones []string
				for i := range domains {
					zones = append(zones, s.zone(fmt.Sprint(i), []string{fmt.Sprintf("seg-%d of %s", i, s.ns)}))
				}
				made := append(s.controlPlaneIn(zones...), f.Ask(f.PoolName))
				s.create(f.Pool(s.ns))

				s.create(harness.Machine(s.ns, "cp-0", made...))

				s.settled("cp-0")
			})
		}
	})
}

func TestPoolThatIsForNoFailureDomainOfTheControlPlaneIsDenied(t *testing.T) {
	t.Parallel()
	s := zonedScene(t)
	a, b := s.zone("a", nil), s.zone("b", nil)
	made := append(s.controlPlaneIn(b, a), harness.WithPool(harness.DefaultPool))
	s.create(harness.Pool(s.ns, func(pool *ipamv1.IPPool) {
		harness.WithAnnotation(ipam.FailureDomainsAnnotation, "another")(pool)
	}))

	s.refused(harness.Machine(s.ns, "cp-0", made...), fmt.Sprintf(`is for failure domains "another" only, and the control plane of Cluster "dkp" is for %q, %q`, a, b))

	s.expectNoClaims()
}

func TestDeviceThatItsFailureDomainGivesAddressesIsLeftAlone(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, configuration := range map[string]capvv1.NetworkConfiguration{
			"by DHCP":               {NetworkName: "seg-a", DHCP4: new(true)},
			"by DHCP for IPv6":      {NetworkName: "seg-a", DHCP6: new(true)},
			"by addressesFromPools": {NetworkName: "seg-a", AddressesFromPools: []capvv1.IPPoolReference{{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "p"}}},
		} {
			t.Run(name, func(t *testing.T) {
				s := zonedScene(t)
				s.pool(f)
				s.create(harness.Template(s.ns, "workers", f.Ask(f.PoolName)))
				owner := s.machineSet("md-a", inDomain(s.zone("a", nil, configured(configuration))))

				s.create(harness.Machine(s.ns, "md-a-0", harness.FromTemplate("workers"), harness.WithOwner(owner)))

				expectSame(s, "the devices", s.machine("md-a-0").Spec.Network.Devices, []capvv1.NetworkDeviceSpec{harness.StaticDevice()})
				s.expectNoClaims()
			})
		}
	})
}

// Admission is not asked about a machine none of whose own devices is eligible, unless it
// asks itself.
func TestMachineThatItsFailureDomainTakesDHCPFromGetsNoAddressYet(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := zonedScene(t)
		s.pool(f)
		a := s.zone("a", nil, configured(capvv1.NetworkConfiguration{NetworkName: "seg-a", DHCP4: new(false)}))

		s.expectDeferred("md-a-0", harness.WithOwner(s.machineSet("md-a", inDomain(a))), harness.WithDevices(harness.DHCPDevice()), f.Ask(f.PoolName))
	})
}

func TestFailureDomainWithoutAnObjectChangesNothing(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := zonedScene(t)
		s.pool(f, harness.WithAnnotation(ipam.FailureDomainsAnnotation, "nowhere"))

		s.create(s.asks(f, "md-0", harness.WithOwner(s.machineSet("md", inDomain("nowhere")))))

		s.settled("md-0")
	})
}

func TestDeviceThatAFailureDomainAddsWithoutAddressesIsWarnedOf(t *testing.T) {
	t.Parallel()
	s := zonedScene(t)
	s.create(harness.Pool(s.ns))
	a := s.zone("a", []string{"seg-a of " + s.ns, "seg-b of " + s.ns})
	c, warned := s.warnedClient()

	machine := s.pooled("md-a-0", harness.WithOwner(s.machineSet("md-a", inDomain(a))))
	if err := c.Create(t.Context(), machine); err != nil {
		t.Fatal(err)
	}

	warned.expect(s, fmt.Sprintf("failure domain %q adds device 1, which has no source of addresses: set dhcp4 or addressesFromPools in VSphereFailureDomain %q", a, a))
	s.settled("md-a-0")
}

// A machine that nobody made may be in any zone, or in none.
func TestMachineOfNobodyGetsNoAddressYetWhereAZoneDecides(t *testing.T) {
	t.Parallel()
	s := zonedScene(t)
	// It may be on the network of any zone, so that its addresses are its own in all.
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.240", "10.16.56.241")), harness.Template(s.ns, "some", harness.WithPool(harness.DefaultPool)))

	s.expectDeferred("m-0", harness.FromTemplate("some"))

	s.create(s.pooled("m-1", harness.WithLabel(clusterv1.ClusterNameLabel, harness.DefaultCluster)))
	s.settled("m-1")
}

// The failure domains of a Cluster may change while a machine is made.
func TestMachineThatGetsAFailureDomainItWasNotServedForIsToldOf(t *testing.T) {
	t.Parallel()
	s := zonedScene(t)
	a, b := s.zone("a", nil), s.zone("b", nil)
	made := append(s.controlPlaneIn(a), harness.WithPool(harness.DefaultPool))
	s.create(harness.Pool(s.ns))
	machine := harness.Machine(s.ns, "cp-0", made...)
	s.create(machine)
	ip := s.settled("cp-0")

	owner := ownerIn(s.ns, "cp-0", b)
	s.create(owner)
	s.change(machine, func() { harness.WithOwner(owner)(machine) })

	if note := s.told("cp-0", "WrongFailureDomain"); !strings.Contains(note, fmt.Sprintf(`is in failure domain %q, but claim "cp-0-0" was made for a machine in failure domain %q`, b, a)) {
		t.Errorf("the event says %q", note)
	}
	if got := s.ip("cp-0"); got != ip {
		t.Errorf("the machine has %s, want %s as before", got, ip)
	}
}

// knownIn makes a machine that is stored known to CAPI and CAPV, with its failure domain.
func (s *scene) knownIn(name, domain string) {
	s.Helper()
	owner := ownerIn(s.ns, name, domain)
	s.create(owner)
	machine := s.machine(name)
	s.change(machine, func() {
		harness.WithOwner(owner)(machine)
		harness.WithFinalizer(harness.MachineFinalizer)(machine)
	})
}

func TestControlPlaneMachineGetsTheAddressOfItsFailureDomainWhenItIsKnown(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := zonedScene(t)
		a, b := s.zone("a", nil, onZone(withPoolOf("0", fullName(f, "pool-a")))), s.zone("b", nil, onZone(withPoolOf("0", fullName(f, "pool-b"))))
		made := s.controlPlaneIn(a, b)
		s.zonePool(f, "pool-a", 40, harness.WithAnnotation(ipam.FailureDomainsAnnotation, a))
		s.zonePool(f, "pool-b", 50, harness.WithAnnotation(ipam.FailureDomainsAnnotation, b))
		s.expectDeferred("cp-0", made...)
		s.create(harness.Machine(s.ns, "cp-1", made...))

		s.knownIn("cp-0", b)
		s.served("cp-0", 1)
		s.knownIn("cp-1", a)
		s.served("cp-1", 1)

		if first, second := s.ip("cp-0"), s.ip("cp-1"); first != f.IP(50) || second != f.IP(40) {
			t.Errorf("the machines have %s and %s, want %s and %s", first, second, f.IP(50), f.IP(40))
		}
		for _, name := range []string{"cp-0", "cp-1"} {
			s.isDone(s.machine(name))
		}
	})
}

func TestMachineThatItsFailureDomainTakesDHCPFromIsServedWhenItIsKnown(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := zonedScene(t)
		s.pool(f)
		a := s.zone("a", nil, configured(capvv1.NetworkConfiguration{NetworkName: "seg-a of " + s.ns, DHCP4: new(false)}))
		s.create(harness.Template(s.ns, "workers", f.Ask(f.PoolName)))
		owner := s.machineSet("md-a", inDomain(a))
		s.create(harness.Machine(s.ns, "md-a-0", harness.FromTemplate("workers"), harness.WithOwner(owner), harness.WithDevices(harness.DHCPDevice())))

		s.knownIn("md-a-0", a)

		s.served("md-a-0", 1)
		s.isDone(s.machine("md-a-0"))
	})
}
