package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// dhcp6Device gets an IPv6 address from the network, and waits for one of IPv4.
func dhcp6Device() capvv1.NetworkDeviceSpec {
	device := harness.StaticDevice()
	device.DHCP6 = yes()
	return device
}

func TestRequestForADeviceThatIsNotThereIsDenied(t *testing.T) {
	t.Parallel()
	named := harness.StaticDevice()
	named.NetworkName, named.DeviceName = "storage", "eth1"
	denial := func(key, by, devices string) string {
		return `annotation pools.capv-static-ip.dev/` + key + ` of ` + by + ` is for a device that the machine does not have: ` +
			`name a device by its index or its deviceName; ` + devices
	}
	const (
		own  = "the VSphereMachine"
		one  = `it has 0 (networkName "VM Network")`
		both = one + `, 1 (networkName "storage", deviceName "eth1")`
	)
	for name, test := range map[string]struct {
		key     string
		devices []capvv1.NetworkDeviceSpec
		denial  string
	}{
		"by the guest's name":        {"ens192", []capvv1.NetworkDeviceSpec{harness.StaticDevice()}, one},
		"by an index from one":       {"1", []capvv1.NetworkDeviceSpec{harness.StaticDevice()}, one},
		"by no index":                {"01", []capvv1.NetworkDeviceSpec{harness.StaticDevice(), named}, both},
		"by the name of its network": {"storage", []capvv1.NetworkDeviceSpec{harness.StaticDevice(), named}, both},
		"of a machine on DHCP":       {"ens192", []capvv1.NetworkDeviceSpec{harness.DHCPDevice()}, one},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.create(harness.Pool(s.ns))

			s.denyMachines(denial(test.key, own, test.denial), withPoolOf(test.key, harness.DefaultPool), harness.WithDevices(test.devices...))

			s.expectNoClaims()
		})
	}
	t.Run("by the template", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.create(harness.Pool(s.ns), harness.Template(s.ns, "cp", withPoolOf("ens192", harness.DefaultPool)))

		s.denyMachines(denial("ens192", `VSphereMachineTemplate "cp"`, one), harness.FromTemplate("cp"))
		s.denyMachines(denial("ens192", `VSphereMachineTemplate "cp"`, one), harness.FromTemplate("cp"), harness.WithPool(harness.DefaultPool))

		s.expectNoClaims()
	})
}

func TestGlobalPoolByItsBareNameIsDeniedWithItsFullName(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses("10.16.64.10-10.16.64.19"))
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))
	s.createGlobal(pool)
	denial := func(by string) string {
		return `no IPPool and no InClusterIPPool "NAMESPACE" can be used in namespace "NAMESPACE", asked for by ` + by + ` of the VSphereMachine, ` +
			`but a GlobalInClusterIPPool has that name: to use it, write GlobalInClusterIPPool/NAMESPACE into annotation pools.capv-static-ip.dev/0`
	}

	s.denyMachines(denial("label cluster.x-k8s.io/ip-pool-name"), harness.WithPool(pool.GetName()))
	s.denyMachines(denial("annotation pools.capv-static-ip.dev/0"), withPoolOf("0", pool.GetName()))

	s.expectNoClaims()
	s.create(harness.Machine(s.ns, "cp-0", withPoolOf("0", "GlobalInClusterIPPool/"+pool.GetName())))
}

func TestRequestThatNoDeviceCanUseIsWarnedOf(t *testing.T) {
	t.Parallel()
	const (
		label    = "label cluster.x-k8s.io/ip-pool-name of "
		own      = "the VSphereMachine"
		template = `VSphereMachineTemplate "cp"`
		noDevice = " is not used: the machine lists no devices, and those of a failure domain are not given addresses; list them in spec.network.devices"
		served   = " is not used: each device has DHCP, addresses or pools of its own, or skipIPAllocation"
		half     = "only devices with neither DHCP nor ipAddrs are served; set dhcp4 or an IPv4 address in ipAddrs if it needs one, or leave IPv6 to the pool"
	)
	for name, test := range map[string]struct {
		devices []capvv1.NetworkDeviceSpec
		// own says that the machine has the label, and not its template.
		own  bool
		want string
	}{
		"no devices":                     {own: true, want: label + own + noDevice},
		"no devices, by the template":    {want: label + template + noDevice},
		"DHCP":                           {own: true, devices: []capvv1.NetworkDeviceSpec{harness.DHCPDevice()}, want: label + own + served},
		"DHCP for IPv6":                  {own: true, devices: []capvv1.NetworkDeviceSpec{dhcp6Device()}, want: "device 0 gets no address by " + label + own + ": it has DHCP for IPv6, and " + half},
		"DHCP for IPv6, by the template": {devices: []capvv1.NetworkDeviceSpec{dhcp6Device()}, want: "device 0 gets no address by " + label + template + ": it has DHCP for IPv6, and " + half},
		"addresses of IPv6": {own: true, devices: []capvv1.NetworkDeviceSpec{harness.FixedDevice("2001:db8:12::21/64")},
			want: "device 0 gets no address by " + label + own + ": it has IPv6 addresses, and " + half},
	} {
		for _, version := range []string{"v1beta1", "v1beta2"} {
			t.Run(name+", "+version, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.create(harness.Pool(s.ns))
				asks := harness.WithPool(harness.DefaultPool)
				machine := harness.Machine(s.ns, "cp-0", asks)
				if !test.own {
					s.create(harness.Template(s.ns, "cp", asks))
					s.knownTemplate("cp")
					machine = harness.Machine(s.ns, "cp-0", harness.FromTemplate("cp"))
				}
				harness.WithDevices(test.devices...)(machine)
				sent, err := harness.AsVersion(machine, version)
				if err != nil {
					t.Fatal(err)
				}
				c, warned := s.warnedClient()

				if err := c.Create(t.Context(), sent); err != nil {
					t.Fatal(err)
				}

				if version == "v1beta1" && !shared.old {
					warned.expect(s, deprecated, test.want)
				} else {
					warned.expect(s, test.want)
				}
				s.expectNoClaims()
			})
		}
	}
}

// What the API server warns of, Cluster API writes into its log at best.
func TestOwnerIsToldOfARequestInVain(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := harness.Template(s.ns, "cp", harness.WithPool(harness.DefaultPool))
	owner := s.machineSet("md-0")
	s.create(harness.Pool(s.ns), template)
	s.knownTemplate("cp")

	s.create(harness.Clone(template, "cp-0", harness.WithOwner(owner), harness.WithDevices(dhcp6Device())))

	for kind, name := range map[string]string{"MachineSet": "md-0", "VSphereMachine": "cp-0"} {
		if note := s.toldAbout(kind, name, "AskedInVain").Note; !strings.HasPrefix(note, "device 0 gets no address by label ") {
			t.Errorf("%s %s is told %q", kind, name, note)
		}
	}
	if value, noted := s.refusedBy(owner); noted {
		t.Errorf("the owner waits for %q, want it left alone", value)
	}
}

// CAPV waits for an address of such a device for ever, and says no more than that.
func TestOwnerIsToldOfADeviceThatNobodyAsksFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		with []harness.Option
		want string
	}{
		"nobody asks for anything": {want: warnNoPool0},
		"nobody asks for one of its devices": {
			with: []harness.Option{
				harness.WithDevices(harness.StaticDevice(), harness.DHCPDevice(), onNetwork("storage")),
				harness.WithAnnotation("pools.capv-static-ip.dev/0", harness.DefaultPool),
			},
			want: warnNoPool2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			owner := s.machineSet("md-0")
			s.create(harness.Pool(s.ns))

			s.create(harness.Machine(s.ns, "md-0-a", append(test.with, harness.WithOwner(owner))...))

			for kind, name := range map[string]string{"MachineSet": "md-0", "VSphereMachine": "md-0-a"} {
				if note := s.toldAbout(kind, name, "AskedInVain").Note; note != test.want {
					t.Errorf("%s %s is told %q, want %q", kind, name, note, test.want)
				}
			}
			if value, noted := s.refusedBy(owner); noted {
				t.Errorf("the owner waits for %q, want it left alone", value)
			}
		})
	}
}

// deprecated is what the API server itself says of the older version.
const deprecated = "infrastructure.cluster.x-k8s.io/v1beta1 VSphereMachine is deprecated; use infrastructure.cluster.x-k8s.io/v1beta2 VSphereMachine"

// knownTemplate waits until each replica knows that a template asks for a pool.
func (s *scene) knownTemplate(name string) {
	s.Helper()
	probe := s.creation("probe", s.manifest(harness.Machine(s.ns, "probe", harness.FromTemplate(name), harness.WithDevices(harness.DHCPDevice()))))
	probe.DryRun = yes()
	for _, replica := range s.env.managers {
		s.eventually(replica.Name+" to know the template", func(context.Context) error {
			if response := s.ask(replica, probe); response.Allowed && len(response.Warnings) == 0 {
				return errors.New("it has nothing to say")
			}
			return nil
		})
	}
}

func TestTwoDefaultRoutesAreWarnedOf(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns), harness.Pool(s.ns, harness.PoolNamed("storage"), harness.PoolRange("10.16.56.200", "10.16.56.209"),
		func(pool *ipamv1.IPPool) { pool.Spec.Gateway = nil }))
	first, second := harness.StaticDevice(), onNetwork("storage")
	first.DeviceName, second.DeviceName = "ens192", "ens224"
	devices := harness.WithDevices(first, second)
	c, warned := s.warnedClient()

	if err := c.Create(t.Context(), harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), devices)); err != nil {
		t.Fatal(err)
	}
	warned.expect(s, `devices 0 (networkName "VM Network", deviceName "ens192") and 1 (networkName "storage", deviceName "ens224") `+
		`each get a default route for IPv4: for all but one of them name a pool without a gateway, or set annotation gateway.capv-static-ip.dev/<device> to "none"`)

	if err := c.Create(t.Context(), harness.Machine(s.ns, "cp-1", harness.WithPool(harness.DefaultPool), withPoolOf("1", "storage"), devices)); err != nil {
		t.Fatal(err)
	}
	warned.expect(s)
}

// poolNamespace is how the static IP adapters name the namespace of pools.
const poolNamespace = "cluster.x-k8s.io/ip-pool-namespace"

func TestPoolInAnotherNamespaceIsDeniedAndOneOfItsNameNotTaken(t *testing.T) {
	t.Parallel()
	const denial = `cluster.x-k8s.io/ip-pool-namespace of %s is "ip-pools", but addresses are claimed in the machine's own namespace only: ` +
		`put the pool into namespace "NAMESPACE" and remove that`
	t.Run("by the Cluster", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.create(harness.Pool(s.ns), harness.Template(s.ns, "cp", harness.WithPool(harness.DefaultPool)),
			harness.Cluster(s.ns, harness.DefaultCluster, harness.WithAnnotation(poolNamespace, "ip-pools")))
		text := "annotation " + fmt.Sprintf(denial, `Cluster "dkp"`)
		s.knownTo("that the pool is elsewhere", harness.Machine(s.ns, "probe", harness.WithPool(harness.DefaultPool)), text)

		s.denyMachines(text, harness.FromTemplate("cp"))

		s.expectNoClaims()
		// By an annotation of ours the machine asks for the pool that is here.
		s.create(harness.Machine(s.ns, "cp-0", withPoolOf("0", harness.DefaultPool)))
	})
	t.Run("by a label", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.create(harness.Pool(s.ns), harness.Template(s.ns, "cp", harness.WithPool(harness.DefaultPool), harness.WithLabel(poolNamespace, "ip-pools")))

		s.denyMachines("label "+fmt.Sprintf(denial, `VSphereMachineTemplate "cp"`), harness.FromTemplate("cp"))

		s.expectNoClaims()
	})
	t.Run("but not its own", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.create(harness.Pool(s.ns), harness.Cluster(s.ns, harness.DefaultCluster, harness.WithAnnotation(poolNamespace, s.ns)))

		s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	})
}

// onOwnNetwork is a manifest as a replica has to be asked with that is asked
// directly: with the full name of the scene's network.
func (s *scene) onOwnNetwork(manifest []byte) []byte {
	return bytes.ReplaceAll(manifest, []byte(sharedNetwork), []byte(sharedNetwork+" of "+networkOwner(s.ns)))
}

// knownTo waits until each replica would deny a machine with this text.
func (s *scene) knownTo(what string, machine client.Object, text string) {
	s.Helper()
	manifest := s.onOwnNetwork(s.manifest(machine))
	for _, replica := range s.env.managers {
		s.eventually(replica.Name+" to know "+what, func(context.Context) error {
			probe := s.creation(machine.GetName(), manifest)
			probe.DryRun = yes()
			if response := s.ask(replica, probe); response.Allowed || response.Result.Message != s.text(text) {
				return fmt.Errorf("it answers %+v", response)
			}
			return nil
		})
	}
}

func TestSearchDomainOfTheAdapterForELFIsInjected(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, func(pool *ipamv1.IPPool) {
		harness.WithAnnotation("cluster.x-k8s.io/ip-search-domain", "example.org")(pool)
	}))

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))

	want := injected(harness.StaticDevice(), "10.16.56.88/24")
	want.SearchDomains = []string{"example.org"}
	s.expectDevices("cp-0", want)
}
