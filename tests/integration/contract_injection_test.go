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

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

func TestPoolOfADeviceIsNamedInThreeForms(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		pool := f.Reference(f.PoolName)
		for form, ref := range map[string]string{
			"name":                     pool.Name,
			"kind and name":            pool.Kind + "/" + pool.Name,
			"kind with group and name": " " + pool.Kind + "." + pool.APIGroup + "/" + pool.Name + " ",
		} {
			t.Run(form, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				template := harness.Template(s.ns, "cp", withPoolOf("0", ref))
				s.pool(f)
				s.create(template)

				s.create(harness.Machine(s.ns, "cp-0", withPoolOf("0", ref)))
				s.expectDevices("cp-0", f.Injected(harness.StaticDevice(), 88))
				s.expectHeld("cp-0")
				s.create(harness.Clone(template, "cp-1"))
				s.expectDevices("cp-1", f.Injected(harness.StaticDevice(), 89))
				s.expectHeld("cp-1")
			})
		}
	})
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
	s.settled("cp-0")
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
		s.settled("cp-1")
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

func TestClaimSaysWhoseItIs(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()

	s.create(s.inClusterMachine("cp-0"))

	s.settled("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"spec.clusterName":    {claim.(*capiipamv1.IPAddressClaim).Spec.ClusterName, harness.DefaultCluster},
		"the Cluster's label": {claim.GetLabels()[clusterv1.ClusterNameLabel], harness.DefaultCluster},
		"the host name":       {claim.GetAnnotations()["ipam.cluster.x-k8s.io/hostname"], "cp-0"},
		"the machine's name":  {claim.GetAnnotations()[ipam.MachineNameAnnotation], "cp-0"},
		"the machine's label": {claim.GetLabels()[ipam.MachineLabel], ipam.MachineLabelValue("cp-0")},
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
	s.settled("cp-0")
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
