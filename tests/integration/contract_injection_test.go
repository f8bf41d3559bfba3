package integration

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/tests/harness"
)

func TestPoolOfADeviceIsNamedInThreeForms(t *testing.T) {
	t.Parallel()
	for form, ref := range map[string]string{
		"name":                     harness.DefaultInClusterPool,
		"kind and name":            "InClusterIPPool/" + harness.DefaultInClusterPool,
		"kind with group and name": " InClusterIPPool.ipam.cluster.x-k8s.io/" + harness.DefaultInClusterPool + " ",
	} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			template := harness.Template(s.ns, "cp", withPoolOf("0", ref))
			s.inClusterPool()
			s.create(template)

			s.create(harness.Machine(s.ns, "cp-0", withPoolOf("0", ref)))
			s.expectDevices("cp-0", inClusterInjected(harness.StaticDevice(), "10.16.57.88/24"))
			s.expectHeld("cp-0")
			s.create(harness.Clone(template, "cp-1"))
			s.expectDevices("cp-1", inClusterInjected(harness.StaticDevice(), "10.16.57.89/24"))
			s.expectHeld("cp-1")
		})
	}
}

func TestMetal3PoolOfADeviceIsNamedInThreeForms(t *testing.T) {
	t.Parallel()
	for form, ref := range map[string]string{
		"name":                     harness.DefaultPool,
		"kind and name":            "IPPool/" + harness.DefaultPool,
		"kind with group and name": "IPPool.ipam.metal3.io/" + harness.DefaultPool,
	} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.create(harness.Pool(s.ns))

			s.create(harness.Machine(s.ns, "cp-0", withPoolOf("0", ref)))

			s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
		})
	}
}

func TestDeviceIsNamedByItsDeviceName(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()
	first, second := harness.StaticDevice(), harness.StaticDevice()
	first.DeviceName, second.DeviceName = "eth0", "eth1"

	s.create(harness.Machine(s.ns, "cp-0", harness.WithDevices(first, second), withPoolOf("eth1", inClusterRef)))

	s.expectDevices("cp-0", first, inClusterInjected(second, "10.16.57.88/24"))
	s.expectHeld("cp-0")
}

func TestAnnotationOfADeviceWinsOverTheLabel(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.inClusterPool()

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), withPoolOf("1", inClusterRef),
		harness.WithDevices(harness.StaticDevice(), harness.StaticDevice())))

	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"), inClusterInjected(harness.StaticDevice(), "10.16.57.88/24"))
	s.expectHeld("cp-0")
}

func TestMachinesOwnMetadataWinsOverThatOfItsTemplate(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]harness.Option{
		"annotation over annotation": withPoolOf("0", inClusterRef),
		"label over annotation":      harness.WithPool(harness.DefaultInClusterPool),
		"device name over index":     withPoolOf("eth0", inClusterRef),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			device := harness.StaticDevice()
			device.DeviceName = "eth0"
			template := harness.Template(s.ns, "cp", withPoolOf("0", harness.DefaultPool), harness.WithDevices(device))
			s.create(harness.Pool(s.ns), template)
			s.inClusterPool()

			s.create(harness.Clone(template, "cp-0", own))

			s.expectDevices("cp-0", inClusterInjected(device, "10.16.57.88/24"))
		})
	}
}

func TestTemplateAnswersForTheDevicesThatTheMachineDoesNotName(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := harness.Template(s.ns, "cp", withPoolOf("0", harness.DefaultPool), withPoolOf("1", harness.DefaultPool),
		harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()))
	s.create(harness.Pool(s.ns), template)
	s.inClusterPool()

	s.create(harness.Clone(template, "cp-0", withPoolOf("0", inClusterRef)))

	s.expectDevices("cp-0", inClusterInjected(harness.StaticDevice(), "10.16.57.88/24"), injected(harness.StaticDevice(), "10.16.56.88/24"))
	s.expectHeld("cp-0")
}

func TestMachineGetsAnAddressOfAGlobalPool(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses("10.16.58.88-10.16.58.89"), harness.InClusterField("10.16.58.1", "gateway"))
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))
	s.createGlobal(pool)

	s.create(harness.Machine(s.ns, "cp-0", withPoolOf("0", "GlobalInClusterIPPool/"+pool.GetName())))

	want := inClusterInjected(harness.StaticDevice(), "10.16.58.88/24")
	want.Gateway4 = "10.16.58.1"
	s.expectDevices("cp-0", want)
	s.expectHeld("cp-0")
	s.inClusterSettled("cp-0")
}

func TestLabelFallsBackToAnInClusterPool(t *testing.T) {
	t.Parallel()
	t.Run("when no IPPool has the name", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.inClusterPool()

		s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultInClusterPool)))

		s.expectDevices("cp-0", inClusterInjected(harness.StaticDevice(), "10.16.57.88/24"))
	})
	t.Run("when the IPPool is being deleted", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		old := harness.Pool(s.ns, func(pool *ipamv1.IPPool) { harness.WithFinalizer(hold)(pool) })
		s.create(old)
		s.inClusterPool(harness.InClusterNamed(harness.DefaultPool))
		s.create(s.pooled("cp-0"))
		s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
		s.settled("cp-0")
		s.delete(old)
		s.knownToTerminate("IPPool/" + harness.DefaultPool)

		// metal3 goes by the name of the pool alone: while the IPPool is there, it
		// may be the first to answer the claim, which is then refused, and is for a
		// while still being deleted.
		s.eventually("the in-cluster provider to be the first", func(ctx context.Context) error {
			err := s.env.Client.Create(ctx, s.pooled("cp-1"))
			if err != nil && !apierrors.IsForbidden(err) {
				s.Fatal(err)
			}
			return err
		})

		s.expectDevices("cp-1", inClusterInjected(harness.StaticDevice(), "10.16.57.88/24"))
		s.inClusterSettled("cp-1")
		// metal3 counts the in-cluster address as its own, by the name of the
		// pool, and as one outside its pool: until it is back, the pool stays.
		for _, name := range []string{"cp-0", "cp-1"} {
			machine := s.machine(name)
			s.delete(machine)
			s.gone(machine)
		}
		// And it looks at the addresses only when the pool or a claim changes: one
		// look may find the last address on its way out, so give it more. One that it
		// made for the claim of cp-1 and then lost stays for the grace period.
		looks := 0
		s.within(gracePeriod+harness.Soon, "the IPPool to be let go", func(ctx context.Context) error {
			if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(old), old); err != nil {
				return client.IgnoreNotFound(err)
			}
			before := old.DeepCopy()
			controllerutil.RemoveFinalizer(old, hold)
			looks++
			metav1.SetMetaDataAnnotation(&old.ObjectMeta, "looks", strconv.Itoa(looks))
			if err := s.env.Client.Patch(ctx, old, client.MergeFrom(before)); err != nil {
				return client.IgnoreNotFound(err)
			}
			return fmt.Errorf("it is there, with finalizers %v, after %d looks; metal3 counts %v, of the addresses %v",
				old.GetFinalizers(), looks, old.Status.Allocations, s.addressObjects())
		})
	})
}

// addressObjects describes all addresses, of both APIs.
func (s *scene) addressObjects() (all []string) {
	s.Helper()
	for _, list := range []client.ObjectList{&ipamv1.IPAddressList{}, &capiipamv1.IPAddressList{}} {
		if err := s.env.Client.List(s.Context(), list, client.InNamespace(s.ns)); err != nil {
			s.Fatal(err)
		}
		_ = meta.EachListItem(list, func(item runtime.Object) error {
			address := item.(client.Object)
			all = append(all, fmt.Sprintf("%T %s with finalizers %v, labels %v, made %s, deleted at %v",
				address, address.GetName(), address.GetFinalizers(), address.GetLabels(), address.GetCreationTimestamp(), address.GetDeletionTimestamp()))
			return nil
		})
	}
	return all
}

// knownToTerminate waits until every replica knows that a pool is being deleted.
func (s *scene) knownToTerminate(ref string) {
	s.Helper()
	preview := s.creation("probe", s.manifest(harness.Machine(s.ns, "probe", withPoolOf("0", ref))))
	preview.DryRun = yes()
	for _, replica := range s.env.managers {
		s.eventually(replica.Name+" to know of the deletion", func(context.Context) error {
			if response := s.ask(replica, preview); len(response.Warnings) != 1 || !strings.Contains(response.Warnings[0], "is being deleted") {
				return fmt.Errorf("it warns of %q", response.Warnings)
			}
			return nil
		})
	}
}

func TestIPPoolIsPreferredToAnInClusterPoolOfTheName(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.inClusterPool(harness.InClusterNamed(harness.DefaultPool))

	s.create(s.pooled("cp-0"))

	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
}

func TestInClusterPoolsAnnotationsAreInjected(t *testing.T) {
	t.Parallel()
	own := harness.StaticDevice()
	own.Gateway4, own.Nameservers, own.SearchDomains = "10.16.57.254", []string{"192.0.2.53"}, []string{"template.example.org"}
	annotated := func(key, value string) harness.InClusterOption {
		return harness.InClusterWith(harness.WithAnnotation(key, value))
	}

	for name, test := range map[string]struct {
		pool   []harness.InClusterOption
		device capvv1.NetworkDeviceSpec
		want   func(*capvv1.NetworkDeviceSpec)
	}{
		"name servers and search domains": {
			pool:   []harness.InClusterOption{annotated(nameservers, "10.16.57.10, 2001:db8::53"), annotated(searchDomains, "example.org,example.net")},
			device: harness.StaticDevice(),
			want: func(device *capvv1.NetworkDeviceSpec) {
				device.Nameservers, device.SearchDomains = []string{"10.16.57.10", "2001:db8::53"}, []string{"example.org", "example.net"}
			},
		},
		"over the device's, whose gateway stays": {
			pool:   []harness.InClusterOption{annotated(nameservers, "10.16.57.10"), annotated(searchDomains, "example.org")},
			device: own,
			want: func(device *capvv1.NetworkDeviceSpec) {
				device.Gateway4, device.Nameservers, device.SearchDomains = own.Gateway4, []string{"10.16.57.10"}, []string{"example.org"}
			},
		},
		"the device's where the pool has none": {
			pool:   []harness.InClusterOption{harness.InClusterField(nil, "gateway")},
			device: own,
			want:   func(device *capvv1.NetworkDeviceSpec) { device.Gateway4 = own.Gateway4 },
		},
		"the gateway of an IPv6 pool": {
			pool: []harness.InClusterOption{
				harness.InClusterAddresses("2001:db8::88-2001:db8::93"),
				harness.InClusterField(int64(64), "prefix"), harness.InClusterField("2001:db8::1", "gateway"),
			},
			device: harness.StaticDevice(),
			want: func(device *capvv1.NetworkDeviceSpec) {
				device.IPAddrs, device.Gateway4, device.Gateway6 = []string{"2001:db8::88/64"}, "", "2001:db8::1"
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.inClusterPool(test.pool...)

			s.create(s.inClusterMachine("cp-0", harness.WithDevices(test.device)))

			want := inClusterInjected(test.device, "10.16.57.88/24")
			test.want(&want)
			s.expectDevices("cp-0", want)
		})
	}
}

func TestClaimSaysWhoseItIs(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()

	s.create(s.inClusterMachine("cp-0"))

	s.inClusterSettled("cp-0")
	claim, err := s.addressClaim("cp-0", 0)
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"spec.clusterName":    {claim.Spec.ClusterName, harness.DefaultCluster},
		"the Cluster's label": {claim.Labels[clusterv1.ClusterNameLabel], harness.DefaultCluster},
		"the host name":       {claim.Annotations["ipam.cluster.x-k8s.io/hostname"], "cp-0"},
		"the machine's name":  {claim.Annotations[allocator.MachineNameAnnotation], "cp-0"},
		"the machine's label": {claim.Labels[allocator.MachineLabel], allocator.MachineLabelValue("cp-0")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s of the claim is %q, want %q", what, pair[0], pair[1])
		}
	}
}

func TestMachineWithoutAClusterIsServed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.InClusterPool(s.ns))

	s.create(s.inClusterMachine("cp-0", harness.WithCluster("")))

	s.expectDevices("cp-0", inClusterInjected(harness.StaticDevice(), "10.16.57.88/24"))
	s.inClusterSettled("cp-0")
}

func TestAnnotationThatNoDeviceUsesIsWarnedOf(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()
	template := harness.Template(s.ns, "cp", withPoolOf("2", inClusterRef))
	s.create(template)
	s.knownTemplate("cp")
	c, warned := s.warnedClient()

	machine := harness.Machine(s.ns, "cp-0", harness.FromTemplate("cp"),
		harness.WithDevices(harness.StaticDevice(), harness.DHCPDevice(), harness.SkippedDevice()),
		withPoolOf("0", inClusterRef), withPoolOf("1", inClusterRef))
	if err := c.Create(t.Context(), machine); err != nil {
		t.Fatal(err)
	}

	warned.expect(s,
		"annotation pools.capv-static-ip.dev/1 of the VSphereMachine is not used: "+
			"device 1 has DHCP, addresses or pools of its own, or skipIPAllocation",
		`annotation pools.capv-static-ip.dev/2 of VSphereMachineTemplate "cp" is not used: `+
			"device 2 has DHCP, addresses or pools of its own, or skipIPAllocation")
	s.expectDevices("cp-0", inClusterInjected(harness.StaticDevice(), "10.16.57.88/24"), harness.DHCPDevice(), harness.SkippedDevice())
}

func TestDryRunOfAnInClusterMachineMakesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses(inClusterFirst))
	c, warned := s.warnedClient()
	preview := func() {
		t.Helper()
		machine := harness.Machine(s.ns, "cp-9", harness.WithPool(harness.DefaultInClusterPool))
		if err := c.Create(t.Context(), machine, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		s.expectUntouched(machine)
	}

	preview()
	warned.expect(s)
	s.expectNoClaims()

	s.create(s.inClusterMachine("cp-0"))
	preview()
	warned.expect(s, inClusterName+` is exhausted: 1 of 1 addresses in use; add addresses to the pool or delete a machine that holds one`)
	if claims := s.addressClaims(); len(claims) != 1 {
		t.Errorf("got %d claims, want that of cp-0", len(claims))
	}
}

func TestUpdateThatDropsAnInClusterAddressIsMended(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterWith(harness.WithAnnotation(nameservers, "10.16.57.10")))
	machine := s.inClusterMachine("cp-0")
	s.create(machine)
	want := s.machine("cp-0").Spec.Network.Devices
	s.inClusterSettled("cp-0")

	s.change(machine, func() { machine.Spec.Network.Devices = []capvv1.NetworkDeviceSpec{harness.StaticDevice()} })

	s.expectDevices("cp-0", want...)
}

func TestTwentyMachinesOfAnInClusterPoolGetAddressesOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	const count = 20
	s.inClusterPool(harness.InClusterAddresses("10.16.57.100-10.16.57.119"))
	errs := make(chan error, count)
	for i := range count {
		machine := s.inClusterMachine(fmt.Sprintf("md-%d", i))
		go func() { errs <- s.env.Client.Create(context.WithoutCancel(t.Context()), machine) }()
	}
	for range count {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	// The invariants, which are looked at next, say that no two share one.
	seen := map[string]bool{}
	for i := range count {
		seen[s.ip(fmt.Sprintf("md-%d", i))] = true
	}
	if len(seen) != count {
		t.Errorf("got %d addresses, want %d", len(seen), count)
	}
}
