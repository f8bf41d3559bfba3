package integration

import (
	"slices"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

func TestMachineGetsAnAddressFromThePoolOfItsLabel(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))

	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
}

func TestMachineOfEitherVersionGetsAnAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	device := fullDevice()

	for _, version := range []string{"v1beta1", "v1beta2"} {
		machine, err := harness.AsVersion(harness.Machine(s.ns, "cp-"+version,
			harness.WithPool(harness.DefaultPool), harness.WithDevices(device)), version)
		if err != nil {
			t.Fatal(err)
		}
		s.create(machine)
	}

	s.expectDevices("cp-v1beta1", injected(device, "10.16.56.88/24"))
	s.expectDevices("cp-v1beta2", injected(device, "10.16.56.89/24"))
	s.expectHeld("cp-v1beta1")
	s.expectHeld("cp-v1beta2")
}

func TestMachineGetsAnAddressFromThePoolOfItsTemplate(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := harness.Template(s.ns, "cp", harness.WithPool(harness.DefaultPool))
	s.create(harness.Pool(s.ns), template)

	s.create(harness.Clone(template, "cp-0"))

	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
}

func TestLabelOfTheMachineWinsOverThatOfItsTemplate(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := harness.Template(s.ns, "cp", harness.WithPool(harness.DefaultPool))
	s.create(harness.Pool(s.ns), template,
		harness.Pool(s.ns, harness.PoolNamed("other"), harness.PoolRange("10.16.56.200", "10.16.56.201")))

	s.create(harness.Clone(template, "cp-0", harness.WithPool("other")))

	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.200/24"))
}

func TestTemplateIsNotAskedByMachinesClonedFromAnotherKind(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := harness.Template(s.ns, "cp", harness.WithPool(harness.DefaultPool))
	s.create(harness.Pool(s.ns), template)

	s.create(harness.Clone(template, "cp-0",
		harness.WithAnnotation("cluster.x-k8s.io/cloned-from-groupkind", "VSphereMachineTemplate.vmware.infrastructure.cluster.x-k8s.io")))

	s.expectDevices("cp-0", harness.StaticDevice())
	s.expectNoClaims()
}

func TestDevicesGetAddressesOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	first, second := harness.StaticDevice(), harness.StaticDevice()
	first.DeviceName, second.DeviceName = "eth0", "eth1"

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), harness.WithDevices(first, second)))

	devices := s.machine("cp-0").Spec.Network.Devices
	addresses := harness.Addresses(s.machine("cp-0"))
	slices.Sort(addresses)
	if want := []string{"10.16.56.88/24", "10.16.56.89/24"}; !slices.Equal(addresses, want) {
		t.Fatalf("got the addresses %v, want %v in any order", addresses, want)
	}
	s.expectDevices("cp-0", injected(first, devices[0].IPAddrs[0]), injected(second, devices[1].IPAddrs[0]))
	s.expectHeld("cp-0")
}

func TestOnlyDevicesWithoutASourceOfAddressesAreTouched(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	off, on := false, true
	dhcp6 := capvv1.NetworkDeviceSpec{NetworkName: "VM Network", DHCP4: &off, DHCP6: &on}
	unset := capvv1.NetworkDeviceSpec{NetworkName: "VM Network"}

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), harness.WithDevices(
		harness.DHCPDevice(), dhcp6, harness.FixedDevice("192.0.2.7/24"), harness.PooledDevice("elsewhere"),
		harness.SkippedDevice(), unset)))

	s.expectDevices("cp-0",
		harness.DHCPDevice(), dhcp6, harness.FixedDevice("192.0.2.7/24"), harness.PooledDevice("elsewhere"),
		harness.SkippedDevice(), injected(unset, "10.16.56.88/24"))
	if claims := s.claims(); len(claims) != 1 || claims[0].GetName() != "cp-0-5" {
		t.Errorf("got the claims %v, want one of device 5", names(claims))
	}
}

func TestGatewayAndNameServersComeFromThePool(t *testing.T) {
	own := harness.StaticDevice()
	own.Gateway4, own.Nameservers, own.SearchDomains = "192.0.2.254", []string{"192.0.2.53"}, []string{"template.example.org"}
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, test := range map[string]struct {
			pool   []harness.Option
			device capvv1.NetworkDeviceSpec
			want   func(*capvv1.NetworkDeviceSpec)
		}{
			"name servers and search domains": {
				pool:   []harness.Option{harness.WithNameservers(f.IP(12), "2001:db8::53"), harness.WithSearchDomains("example.org,example.net")},
				device: harness.StaticDevice(),
				want: func(device *capvv1.NetworkDeviceSpec) {
					device.Nameservers, device.SearchDomains = []string{f.IP(12), "2001:db8::53"}, []string{"example.org", "example.net"}
				},
			},
			"none where the pool has none": {
				pool:   []harness.Option{harness.WithGateway(""), harness.WithNameservers()},
				device: harness.StaticDevice(),
				want:   func(device *capvv1.NetworkDeviceSpec) { device.Gateway4, device.Nameservers = "", nil },
			},
			"the device's stay where the pool has none": {
				pool:   []harness.Option{harness.WithGateway(""), harness.WithNameservers()},
				device: own,
				want: func(device *capvv1.NetworkDeviceSpec) {
					device.Gateway4, device.Nameservers = own.Gateway4, own.Nameservers
				},
			},
			"the device's own gateway stays, its name servers and search domains yield": {
				pool:   []harness.Option{harness.WithSearchDomains(" a.example.org,,b.example.org ")},
				device: own,
				want: func(device *capvv1.NetworkDeviceSpec) {
					device.Gateway4, device.SearchDomains = own.Gateway4, []string{"a.example.org", "b.example.org"}
				},
			},
			"the gateway of an IPv6 pool": {
				pool: []harness.Option{
					harness.WithRange("2001:db8::88", "2001:db8::93"), harness.WithPrefix(64),
					harness.WithGateway("2001:db8::1"), harness.WithNameservers("2001:db8::53"),
				},
				device: harness.StaticDevice(),
				want: func(device *capvv1.NetworkDeviceSpec) {
					device.IPAddrs = []string{"2001:db8::88/64"}
					device.Gateway4, device.Gateway6, device.Nameservers = "", "2001:db8::1", []string{"2001:db8::53"}
				},
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.pool(f, test.pool...)

				s.create(s.asks(f, "cp-0", harness.WithDevices(test.device)))

				want := f.Injected(test.device, 88)
				test.want(&want)
				s.expectDevices("cp-0", want)
			})
		}
	})
}

func TestGatewayAndNameServersComeFromTheSubPoolWhereItHasSome(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, func(pool *ipamv1.IPPool) {
		part, gateway := &pool.Spec.Pools[0], ipamv1.IPAddressStr("10.16.56.2")
		part.Prefix, part.Gateway, part.DNSServers = 26, &gateway, []ipamv1.IPAddressStr{"10.16.56.12"}
	}))

	s.create(s.pooled("cp-0"))

	want := injected(harness.StaticDevice(), "10.16.56.88/26")
	want.Gateway4, want.Nameservers = "10.16.56.2", []string{"10.16.56.12"}
	s.expectDevices("cp-0", want)
}

// searchDomains is the annotation of a pool with its DNS search domains.
const searchDomains = "cluster.x-k8s.io/dns-search-domains"

// fullDevice has every field set that leaves it without a source of addresses.
func fullDevice() capvv1.NetworkDeviceSpec {
	off, mtu, metric, hostname := false, int64(9000), int32(50), "host"
	device := harness.StaticDevice()
	device.DHCP6, device.SkipIPAllocation = &off, &off
	device.DeviceName, device.MACAddr, device.MTU = "eth0", "00:50:56:00:00:01", &mtu
	device.Gateway6 = "2001:db8::1"
	device.Routes = []capvv1.NetworkRouteSpec{{To: "192.0.2.0/24", Via: "10.16.56.3", Metric: &metric}}
	device.DHCP4Overrides = &capvv1.DHCPOverrides{Hostname: &hostname, RouteMetric: &metric}
	return device
}

// injected is a device as it must be stored when it got this address from
// harness.Pool as it is.
func injected(device capvv1.NetworkDeviceSpec, address string) capvv1.NetworkDeviceSpec {
	got := device.DeepCopy()
	got.IPAddrs = []string{address}
	got.Gateway4 = "10.16.56.1"
	got.Nameservers = []string{"10.16.56.10", "10.16.56.11"}
	return *got
}

// expectDevices checks that a stored machine has exactly these devices.
func (s *scene) expectDevices(name string, want ...capvv1.NetworkDeviceSpec) {
	s.Helper()
	expectSame(s, "the devices of "+name, s.machine(name).Spec.Network.Devices, want)
}

// expectHeld checks that a stored machine carries what makes the release of its
// addresses sure.
func (s *scene) expectHeld(name string) {
	s.Helper()
	machine := s.machine(name)
	if !slices.Contains(machine.Finalizers, ipam.ReleaseFinalizer) {
		s.Errorf("machine %s has the finalizers %v, ours is missing", name, machine.Finalizers)
	}
	bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	if err != nil || bindings.Machine != name {
		s.Fatalf("machine %s has the bindings %+v of %q (%v)", name, bindings.Bindings, bindings.Machine, err)
	}
	for _, b := range bindings.Bindings {
		device := machine.Spec.Network.Devices[b.Device.Index]
		if !slices.Contains(device.IPAddrs, b.Address.String()) || b.Claim != ipam.ClaimName(name, b.Slot()) {
			s.Errorf("machine %s has the binding %+v and the device %+v", name, b, device)
		}
	}
	addresses := harness.Addresses(machine)
	if len(bindings.Bindings) != len(addresses) {
		s.Errorf("machine %s has the addresses %v and %d bindings", name, addresses, len(bindings.Bindings))
	}
}
