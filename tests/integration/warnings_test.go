package integration

import (
	"context"
	"fmt"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

const (
	warnPaused  = "the machine's Cluster is paused: its addresses follow when the Cluster is resumed and a Machine owns it"
	warnNoName  = "metadata.generateName gives the machine no name yet: its addresses follow when a Machine owns it; set metadata.name to have them at once"
	warnNoPool0 = "device 0 has no source of addresses: set dhcp4 or ipAddrs, " +
		"or name a pool with label cluster.x-k8s.io/ip-pool-name or annotation pools.capv-static-ip.dev/0"
	warnNoPool2 = "device 2 has no source of addresses: set dhcp4 or ipAddrs, " +
		"or name a pool with label cluster.x-k8s.io/ip-pool-name or annotation pools.capv-static-ip.dev/2"
)

// expectUntouched checks that a machine is stored, or previewed, without any
// trace of us.
func (s *scene) expectUntouched(machine *capvv1.VSphereMachine, devices ...capvv1.NetworkDeviceSpec) {
	s.Helper()
	if len(devices) == 0 {
		devices = []capvv1.NetworkDeviceSpec{harness.StaticDevice()}
	}
	expectSame(s, "the devices of "+machine.Name, machine.Spec.Network.Devices, devices)
	if len(machine.Finalizers)+len(machine.Annotations) > 0 {
		s.Errorf("machine %s has the finalizers %v and the annotations %v", machine.Name, machine.Finalizers, machine.Annotations)
	}
}

func TestDryRunMakesNothing(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		c, warned := s.warnedClient()
		preview := func() {
			t.Helper()
			machine := harness.Machine(s.ns, "cp-9", harness.WithPool(f.PoolName))
			if err := c.Create(t.Context(), machine, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			s.expectUntouched(machine)
		}

		preview()
		warned.expect(s, `no IPPool and no InClusterIPPool "`+f.PoolName+`" can be used in namespace "NAMESPACE", asked for by label `+
			`cluster.x-k8s.io/ip-pool-name of the VSphereMachine: create the one that you mean or correct its name there`)
		s.expectNoClaims()

		s.pool(f, f.WithIPs(88, 89))
		s.knownCounts(harness.WithPool(f.PoolName), 1)
		preview()
		warned.expect(s, fmt.Sprintf("would claim 1 address of %s %q (2 free)", f.Reference(f.PoolName).Kind, f.PoolName))
		s.expectNoClaims()

		s.create(s.asks(f, "cp-0"), s.asks(f, "cp-1"))
		preview()
		warned.expect(s, exhausted(f, "2 of 2 addresses in use"))
		s.expectClaims(2)
	})
}

// CAPI does not look again, between two machines, whether their Cluster is paused.
func TestOwnerOfAPausedClusterGetsNoMachineWithoutAnAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	cluster := harness.Cluster(s.ns, harness.DefaultCluster, paused)
	owner := s.machineSet("md-0")
	s.create(cluster, harness.Pool(s.ns))
	s.knownToBePaused()
	made := func() client.Object {
		return harness.Machine(s.ns, "md-0-a", harness.WithPool(harness.DefaultPool), harness.WithOwner(owner))
	}

	s.expectDenial(s.env.Client.Create(t.Context(), made()), `Cluster "dkp" is paused, so that MachineSet "md-0" gets no machine now: resume the Cluster`)

	s.expectNoClaims()
	s.create(harness.Machine(s.ns, "md-0-dhcp", harness.WithDevices(harness.DHCPDevice()), harness.WithOwner(owner)))
	s.change(cluster, func() { cluster.Spec.Paused = nil })
	s.touched(owner)
	s.eventually("the machine to be made", func(ctx context.Context) error { return s.env.Client.Create(ctx, made()) })
	s.settled("md-0-a")
}

func TestMachineOfAPausedClusterIsAllowedUnchanged(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster, paused), harness.Pool(s.ns))
	machine := func() *capvv1.VSphereMachine {
		return harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool))
	}
	// A replica learns of the Cluster a moment after it was made.
	s.knownToBePaused()
	c, warned := s.warnedClient()

	if err := c.Create(t.Context(), machine()); err != nil {
		t.Fatal(err)
	}

	warned.expect(s, warnPaused)
	s.expectUntouched(s.machine("cp-0"))
	s.expectNoClaims()
}

func TestMachineWithoutANameIsAllowedUnchanged(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	c, warned := s.warnedClient()
	machine := harness.Machine(s.ns, "", harness.WithPool(harness.DefaultPool))
	machine.GenerateName = "cp-"

	if err := c.Create(t.Context(), machine); err != nil {
		t.Fatal(err)
	}

	warned.expect(s, warnNoName)
	s.expectUntouched(s.machine(machine.Name))
	s.expectNoClaims()
}

func TestMachineThatNamesNoPoolIsAllowedUnchanged(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	c, warned := s.warnedClient()
	devices := []capvv1.NetworkDeviceSpec{harness.StaticDevice(), harness.DHCPDevice(), harness.StaticDevice()}

	if err := c.Create(t.Context(), harness.Machine(s.ns, "cp-0", harness.WithDevices(devices...))); err != nil {
		t.Fatal(err)
	}

	warned.expect(s, warnNoPool0, warnNoPool2)
	s.expectUntouched(s.machine("cp-0"), devices...)
	s.expectNoClaims()
}
