package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// Addresses that would take down the network or somebody else are passed over,
// in the same request, and keep out of the pool for as long as that lasts.

// reviewed is when it has been looked for certain whether a cause is gone.
const reviewed = 30*time.Second + harness.Soon

func TestPoolNeverGivesWhatItsNetworkNeeds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pool ipamv1.IPPoolSpec
		// first is what a machine gets that comes first.
		first string
		free  int
	}{
		"its gateway": {
			pool: ipamv1.IPPoolSpec{Pools: []ipamv1.Pool{harness.Range("10.16.56.1", "10.16.56.3")}, Prefix: 24,
				Gateway: ptr(ipamv1.IPAddressStr("10.16.56.1"))},
			first: "10.16.56.2", free: 2,
		},
		"its name servers": {
			pool: ipamv1.IPPoolSpec{Pools: []ipamv1.Pool{harness.Range("10.16.56.10", "10.16.56.12")}, Prefix: 24,
				DNSServers: []ipamv1.IPAddressStr{"10.16.56.10", "10.16.56.11"}},
			first: "10.16.56.12", free: 1,
		},
		"the network and the broadcast address": {
			pool:  ipamv1.IPPoolSpec{Pools: []ipamv1.Pool{harness.Range("10.16.56.64", "10.16.56.67")}, Prefix: 30},
			first: "10.16.56.65", free: 2,
		},
		"the address of the routers of an IPv6 network": {
			pool:  ipamv1.IPPoolSpec{Pools: []ipamv1.Pool{harness.Range("fd00:56::", "fd00:56::2")}, Prefix: 64},
			first: "fd00:56::1", free: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			test.pool.NamePrefix = "dkp"
			pool := harness.Pool(s.ns)
			pool.Spec = test.pool
			s.create(pool)

			for i := range test.free {
				s.create(harness.Machine(s.ns, fmt.Sprintf("cp-%d", i), harness.WithPool(harness.DefaultPool)))
			}
			if got := s.ip("cp-0"); got != test.first {
				t.Errorf("the first machine got %s, want %s", got, test.first)
			}
			err := s.env.Client.Create(t.Context(), harness.Machine(s.ns, "cp-9", harness.WithPool(harness.DefaultPool)))
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("is exhausted: %d of %d addresses in use", test.free, test.free)) {
				t.Errorf("one machine more: got %v, want the denial that all %d are in use", err, test.free)
			}
		})
	}
}

func TestNetworkOfTwoAddressesHasNoneThatCannotBeGiven(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.Pool(s.ns, harness.PoolRange("10.16.56.64", "10.16.56.65"))
	pool.Spec.Prefix = 31
	s.create(pool)

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)), harness.Machine(s.ns, "cp-1", harness.WithPool(harness.DefaultPool)))
}

func TestAddressThatIsSetAsideIsToldAndComesBackWhenItsCauseIsGone(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool, server := s.pool(f, f.WithIPs(2, 4), harness.WithNameservers(f.IP(2))), f.IP(2)

		s.create(s.asks(f, "cp-0"))

		if got := s.ip("cp-0"); got != f.IP(3) {
			t.Errorf("the machine got %s, want what is beside the name server", got)
		}
		if note := s.toldAbout(f.Reference(f.PoolName).Kind, f.PoolName, "AddressSetAside").Note; !strings.HasPrefix(note, server+" ") {
			t.Errorf("the pool is told %q, want it to begin with the address", note)
		}
		if n := len(s.setAside()); n != 1 {
			t.Fatalf("%d claims are set aside, want 1", n)
		}
		s.change(pool, func() { harness.WithNameservers()(pool) })
		s.within(reviewed, "the address to come back", func(context.Context) error {
			if left := s.setAside(); len(left) > 0 {
				return fmt.Errorf("%d claims are set aside", len(left))
			}
			return nil
		})
		s.returned(server)
		s.create(s.asks(f, "cp-1"))
		if got := s.ip("cp-1"); got != server {
			t.Errorf("the next machine got %s, want %s", got, server)
		}
	})
}

func TestAddressThatAnythingUsesIsNotGiven(t *testing.T) {
	users := map[string]func(s *scene, address string){
		"a machine whose user wrote it by hand": func(s *scene, address string) {
			s.create(harness.Machine(s.ns, "by-hand", harness.WithDevices(harness.FixedDevice(address+"/24"))))
		},
		"a machine of another namespace": func(s *scene, address string) {
			other := s.neighbour()
			other.create(harness.Machine(other.ns, "by-hand", harness.WithDevices(harness.FixedDevice(address+"/24"))))
		},
		"a VM without an owner": func(s *scene, address string) {
			vm := harness.VSphereVM(harness.Machine(s.ns, "left", harness.WithDevices(harness.FixedDevice(address+"/24"))))
			vm.OwnerReferences = nil
			s.create(vm)
		},
		"the guest of a VM": func(s *scene, address string) {
			vm := harness.VSphereVM(harness.Machine(s.ns, "dhcp", harness.WithDevices(harness.DHCPDevice())))
			vm.OwnerReferences = nil
			s.create(vm)
			vm.Status.Network = []capvv1.NetworkStatus{{NetworkName: sharedNetwork, MACAddr: "00:50:56:00:00:01", IPAddrs: []string{address}}}
			if err := s.env.Client.Status().Update(s.Context(), vm); err != nil {
				s.Fatal(err)
			}
		},
	}
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for user, use := range users {
			t.Run("used by "+user, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.pool(f)
				use(s, f.IP(88))
				s.known(f.IP(88))

				s.create(s.asks(f, "cp-0"))

				if got := s.ip("cp-0"); got != f.IP(89) {
					t.Errorf("the machine got %s, want the next one, %s", got, f.IP(89))
				}
			})
		}
	})
}

func TestEndpointOfAControlPlaneIsNotGivenToANode(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		// An endpoint names no network, so no other test may have these addresses.
		ip := func(last int) string { return strings.Replace(f.IP(last), "10.16.", "10.201.", 1) }
		cluster := harness.Cluster(s.ns, harness.DefaultCluster)
		cluster.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: ip(10), Port: 6443}
		s.create(cluster, f.Pool(s.ns, harness.WithRange(ip(10), ip(15)), harness.WithGateway("")))
		s.known(ip(10))

		s.create(s.asks(f, "cp-0"))

		if got := s.ip("cp-0"); got != ip(11) {
			t.Errorf("the node got %s, want %s", got, ip(11))
		}
	})
}

func TestAddressOnAnotherNetworkIsAnotherAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	device := harness.FixedDevice("10.16.56.88/24")
	device.NetworkName = "/DC0/network/" + sharedNetwork + " Storage"
	s.create(harness.Pool(s.ns), harness.Machine(s.ns, "storage", harness.WithDevices(device)))

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))

	if got := s.ip("cp-0"); got != "10.16.56.88" {
		t.Errorf("the machine got %s, want 10.16.56.88", got)
	}
}

func TestPoolsThatOverlapGiveEachAddressOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.90"))
	second := harness.InClusterPool(s.ns, harness.InClusterAddresses("10.16.57.88-10.16.57.90"))
	second.SetName("second")
	s.create(second, harness.Pool(s.ns, harness.PoolRange("10.16.57.88", "10.16.57.90")))
	given := map[string]string{}

	for i, label := range []string{harness.DefaultPool, harness.DefaultInClusterPool, "second"} {
		name := fmt.Sprintf("cp-%d", i)
		s.create(harness.Machine(s.ns, name, harness.WithPool(label)))
		ip := s.ip(name)
		if other, twice := given[ip]; twice {
			t.Errorf("%s and %s were both given %s", other, name, ip)
		}
		given[ip] = name
	}
}

// known waits until the managers have heard of who uses an address: another
// machine is refused a moment after it, not at the same time.
func (s *scene) known(address string) {
	s.Helper()
	for i, manager := range s.env.managers {
		probe := fmt.Sprintf("probe-%d-%d", i, len(address))
		s.eventually("a manager to know who uses "+address, func(context.Context) error {
			raw := fmt.Sprintf(`{"apiVersion":"infrastructure.cluster.x-k8s.io/v1beta2","kind":"VSphereMachine","metadata":{"name":%q,"namespace":%q,`+
				`"annotations":{%q:%q}},"spec":{"network":{"devices":[{"networkName":%q,"dhcp4":false,"ipAddrs":[%q]}]}}}`,
				probe, s.ns, ipam.BindingsAnnotation, `{"machine":"`+probe+`","bindings":[]}`, sharedNetwork+" of "+networkOwner(s.ns), address+"/24")
			if s.ask(manager, s.creation(probe, []byte(raw))).Allowed {
				return fmt.Errorf("it would let another machine have it")
			}
			return nil
		})
	}
}

// setAside lists the claims of the scene that keep an address aside.
func (s *scene) setAside() []client.Object {
	s.Helper()
	return slices.DeleteFunc(s.claims(), func(claim client.Object) bool { return !ipam.IsSetAside(claim) })
}

func ptr[T any](value T) *T { return &value }

func TestPoolsThatOverlapGiveEachAddressOnceInTheSameMoment(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	const pairs = 12
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.57.10", "10.16.57.60")))
	s.inClusterPool(harness.InClusterAddresses("10.16.57.10-10.16.57.60"))
	given := map[string]string{}

	for i := range pairs {
		var creates sync.WaitGroup
		names := map[string]string{fmt.Sprintf("a-%d", i): harness.DefaultPool, fmt.Sprintf("b-%d", i): harness.DefaultInClusterPool}
		for name, label := range names {
			creates.Go(func() {
				if err := s.env.Client.Create(t.Context(), harness.Machine(s.ns, name, harness.WithPool(label))); err != nil {
					t.Errorf("creating %s: %v", name, err)
				}
			})
		}
		creates.Wait()
		for name := range names {
			ip := s.ip(name)
			if other, twice := given[ip]; twice {
				t.Errorf("%s and %s were both given %s", other, name, ip)
			}
			given[ip] = name
		}
	}
}
