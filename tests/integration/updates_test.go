package integration

import (
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// boundScene has machine cp-0 with an address on its device, from a pool that
// has everything that can be injected.
func boundScene(t *testing.T, devices ...capvv1.NetworkDeviceSpec) *scene {
	t.Helper()
	s := newScene(t, shared)
	s.create(
		harness.Pool(s.ns, func(pool *ipamv1.IPPool) { pool.Annotations = map[string]string{searchDomains: "example.org"} }),
		harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), harness.WithDevices(devices...)))
	return s
}

// bound is a device as it must be stored in a boundScene.
func bound(device capvv1.NetworkDeviceSpec, address string) capvv1.NetworkDeviceSpec {
	got := injected(device, address)
	got.SearchDomains = []string{"example.org"}
	return got
}

// onNetwork is a device that needs an address, on this network.
func onNetwork(network string) capvv1.NetworkDeviceSpec {
	device := harness.StaticDevice()
	device.NetworkName = network
	return device
}

// update sends devices in place of those that a machine has.
func (s *scene) update(name string, devices []capvv1.NetworkDeviceSpec, options ...client.PatchOption) (*capvv1.VSphereMachine, error) {
	s.Helper()
	machine := s.machine(name)
	before := machine.DeepCopy()
	harness.WithDevices(devices...)(machine)
	return machine, s.env.Client.Patch(s.Context(), machine, client.MergeFrom(before), options...)
}

func TestUpdateWithoutTheAddressGetsItBack(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, harness.WithSearchDomains("example.org"))
		s.create(s.asks(f, "cp-0"))
		mtu := int64(9000)
		device := harness.StaticDevice()
		device.MTU = &mtu
		want := f.Injected(device, 88)
		want.SearchDomains = []string{"example.org"}

		for _, when := range []string{"before the claim is adopted", "when it is"} {
			if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{device}); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			s.expectDevices("cp-0", want)
			s.expectHeld("cp-0")
			s.settled("cp-0")
		}
	})
}

func TestDryRunOfAnUpdateWithoutTheAddressGetsItBack(t *testing.T) {
	t.Parallel()
	s := boundScene(t, harness.StaticDevice())
	mtu := int64(9000)
	device := harness.StaticDevice()
	device.MTU = &mtu

	preview, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{device}, client.DryRunAll)
	if err != nil {
		t.Fatal(err)
	}

	expectSame(s, "the devices in the preview", preview.Spec.Network.Devices, []capvv1.NetworkDeviceSpec{bound(device, "10.16.56.88/24")})
	s.expectDevices("cp-0", bound(harness.StaticDevice(), "10.16.56.88/24"))
}

func TestUpdateOfTheOlderVersionGetsTheAddressBack(t *testing.T) {
	t.Parallel()
	s := boundScene(t, harness.StaticDevice())
	stored := s.machine("cp-0")
	older, err := harness.AsVersion(stored, "v1beta1")
	if err != nil {
		t.Fatal(err)
	}
	rewritten, err := harness.AsVersion(harness.Machine(s.ns, "cp-0"), "v1beta1")
	if err != nil {
		t.Fatal(err)
	}
	older.Object["spec"] = rewritten.Object["spec"]
	before, err := harness.AsVersion(stored, "v1beta1")
	if err != nil {
		t.Fatal(err)
	}

	if err := s.env.Client.Patch(t.Context(), older, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}

	s.expectDevices("cp-0", bound(harness.StaticDevice(), "10.16.56.88/24"))
	s.expectHeld("cp-0")
}

func TestUpdateThatChangesTheAddressGetsItBack(t *testing.T) {
	t.Parallel()
	s := boundScene(t, harness.StaticDevice())

	if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{harness.FixedDevice("10.16.56.99/24")}); err != nil {
		t.Fatal(err)
	}

	s.expectDevices("cp-0", bound(harness.StaticDevice(), "10.16.56.88/24"))
}

func TestUpdateWithoutTheAddressKeepsTheGatewayThatItBrings(t *testing.T) {
	t.Parallel()
	s := boundScene(t, harness.StaticDevice())
	device := harness.StaticDevice()
	device.Gateway4 = "10.16.56.254"

	if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{device}); err != nil {
		t.Fatal(err)
	}

	want := bound(device, "10.16.56.88/24")
	want.Gateway4 = "10.16.56.254"
	s.expectDevices("cp-0", want)
}

func TestUpdateMayAddDevicesBehindTheBoundOne(t *testing.T) {
	t.Parallel()
	s := boundScene(t, harness.StaticDevice())

	if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{harness.StaticDevice(), harness.DHCPDevice()}); err != nil {
		t.Fatal(err)
	}

	s.expectDevices("cp-0", bound(harness.StaticDevice(), "10.16.56.88/24"), harness.DHCPDevice())
}

func TestUpdateThatMovesAnAddressToAnotherDeviceIsDenied(t *testing.T) {
	t.Parallel()
	const keep = `, but holds 10.16.56.88/24 from IPPool "dkp-cluster": keep the device as it is, or replace the machine`
	a := onNetwork(sharedNetwork + " A")
	fixed := harness.FixedDevice("192.0.2.7/24")

	for name, test := range map[string]struct {
		devices []capvv1.NetworkDeviceSpec
		// change makes the update of the devices as they are stored.
		change func([]capvv1.NetworkDeviceSpec) []capvv1.NetworkDeviceSpec
		denial string
	}{
		"reordered, on different networks": {
			devices: []capvv1.NetworkDeviceSpec{a, harness.DHCPDevice()},
			change:  reverse,
			denial:  "device 0 has another networkName" + keep,
		},
		"reordered, on one network": {
			devices: []capvv1.NetworkDeviceSpec{harness.StaticDevice(), fixed},
			change:  reverse,
			denial:  "device 0 has lost its address to device 1" + keep,
		},
		"reordered without the address": {
			devices: []capvv1.NetworkDeviceSpec{a, fixed},
			change: func([]capvv1.NetworkDeviceSpec) []capvv1.NetworkDeviceSpec {
				return []capvv1.NetworkDeviceSpec{fixed, a}
			},
			denial: "device 0 has another networkName" + keep,
		},
		"removed": {
			devices: []capvv1.NetworkDeviceSpec{a, fixed},
			change:  func(devices []capvv1.NetworkDeviceSpec) []capvv1.NetworkDeviceSpec { return devices[1:] },
			denial:  "device 0 has another networkName" + keep,
		},
		"removed, the only one": {
			devices: []capvv1.NetworkDeviceSpec{a},
			change:  func([]capvv1.NetworkDeviceSpec) []capvv1.NetworkDeviceSpec { return nil },
			denial:  "device 0 is gone" + keep,
		},
		"DHCP for IPv4 added": {
			devices: []capvv1.NetworkDeviceSpec{a},
			change:  first(func(device *capvv1.NetworkDeviceSpec) { device.DHCP4 = yes() }),
			denial:  "device 0 gains DHCP" + keep,
		},
		"DHCP for IPv6 added in place of the address": {
			devices: []capvv1.NetworkDeviceSpec{a},
			change:  first(func(device *capvv1.NetworkDeviceSpec) { device.DHCP6, device.IPAddrs = yes(), nil }),
			denial:  "device 0 gains DHCP" + keep,
		},
		"addressesFromPools added": {
			devices: []capvv1.NetworkDeviceSpec{a},
			change: first(func(device *capvv1.NetworkDeviceSpec) {
				device.AddressesFromPools = harness.PooledDevice("elsewhere").AddressesFromPools
			}),
			denial: "device 0 gains addressesFromPools" + keep,
		},
		"macAddr changed": {
			devices: []capvv1.NetworkDeviceSpec{a},
			change:  first(func(device *capvv1.NetworkDeviceSpec) { device.MACAddr = "00:50:56:00:00:02" }),
			denial:  "device 0 has another macAddr" + keep,
		},
		"networkName changed": {
			devices: []capvv1.NetworkDeviceSpec{a},
			change:  first(func(device *capvv1.NetworkDeviceSpec) { device.NetworkName = sharedNetwork + " B" }),
			denial:  "device 0 has another networkName" + keep,
		},
		"deviceName changed": {
			devices: []capvv1.NetworkDeviceSpec{a},
			change:  first(func(device *capvv1.NetworkDeviceSpec) { device.DeviceName = "eth1" }),
			denial:  "device 0 has another deviceName" + keep,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := boundScene(t, test.devices...)
			stored := s.machine("cp-0").Spec.Network.Devices

			for range tries {
				_, err := s.update("cp-0", test.change(s.machine("cp-0").Spec.Network.Devices))
				s.expectDenial(err, test.denial)
			}
			_, err := s.update("cp-0", test.change(s.machine("cp-0").Spec.Network.Devices), client.DryRunAll)
			s.expectDenial(err, test.denial)

			s.expectDevices("cp-0", stored...)
		})
	}
}

// first makes an update that changes the first device.
func first(change func(*capvv1.NetworkDeviceSpec)) func([]capvv1.NetworkDeviceSpec) []capvv1.NetworkDeviceSpec {
	return func(devices []capvv1.NetworkDeviceSpec) []capvv1.NetworkDeviceSpec {
		change(&devices[0])
		return devices
	}
}

func reverse(devices []capvv1.NetworkDeviceSpec) []capvv1.NetworkDeviceSpec {
	return []capvv1.NetworkDeviceSpec{devices[1], devices[0]}
}

func yes() *bool {
	on := true
	return &on
}
