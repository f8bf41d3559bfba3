package integration

import (
	"context"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

const oneAddress = "10.16.56.88"

// inUseBy is the denial of a copy whose first device has an address that is used.
func inUseBy(ip, user string) string {
	return `device 0 has ` + ip + `, which ` + user + ` uses: remove annotation capv-static-ip.dev/bindings, ` +
		`finalizer capv-static-ip.dev/release and the ipAddrs, so that the machine gets an address of its own`
}

// takenOver has machine cp-9 hold the address that cp-0 had, and returns the
// manifest of cp-0 as it was.
func (s *scene) takenOver() client.Object {
	s.Helper()
	s.create(harness.Pool(s.ns, harness.PoolRange(oneAddress, oneAddress)), s.pooled("cp-0"))
	s.settled("cp-0")
	manifest, machine := s.copyOf("cp-0", "cp-0"), s.machine("cp-0")
	s.delete(machine)
	s.gone(machine)
	s.returned(oneAddress)
	s.create(s.pooled("cp-9"))
	if got := s.settled("cp-9"); got != oneAddress {
		s.Fatalf("cp-9 has %s, want the address that cp-0 had", got)
	}
	return manifest
}

func copied(object client.Object, options ...harness.Option) client.Object {
	fresh := object.DeepCopyObject().(client.Object)
	for _, option := range options {
		option(fresh)
	}
	return fresh
}

func TestManifestWhoseAddressWentToAnotherMachineIsDenied(t *testing.T) {
	t.Parallel()
	withoutAnnotation := func(object client.Object) { object.SetAnnotations(nil) }
	s := newScene(t, shared)
	manifest := s.takenOver()
	denial := inUseBy(oneAddress, `VSphereMachine "cp-9"`)
	s.knownTo("that cp-9 has the address", manifest, denial)

	s.expectDenial(s.env.Client.Create(t.Context(), copied(manifest)), denial)
	s.expectDenial(s.env.Client.Create(t.Context(), copied(manifest), client.DryRunAll), denial)
	s.expectDenial(s.env.Client.Create(t.Context(), copied(manifest, withoutAnnotation)), denial)

	other := s.neighbour()
	elsewhere := copied(manifest, func(object client.Object) { object.SetNamespace(other.ns) })
	other.expectDenial(s.env.Client.Create(t.Context(), elsewhere), inUseBy(oneAddress, "a VSphereMachine of another namespace"))
}

// With in-cluster, a claim that is deleted by hand stays deleted.
func TestCopyOfAMachineWithoutItsClaimIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()
	s.create(s.inClusterMachine("cp-0"))
	ip := s.settled("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	s.delete(claim)
	s.gone(claim)

	s.expectDenial(s.env.Client.Create(t.Context(), s.copyOf("cp-0", "copy")), inUseBy(ip, `VSphereMachine "cp-0"`))
}

func TestRestoredMachineWhoseAddressAnotherHasIsAdmittedAndBothAreTold(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	manifest := s.takenOver()
	s.knownTo("that cp-9 has the address", manifest, inUseBy(oneAddress, `VSphereMachine "cp-9"`))
	counted := s.metric("capv_static_ip_shared_addresses_total", nil)
	c, warned := s.warnedClient()
	restored := copied(manifest, setProviderID("vsphere://"+s.ns+"-cp-0"))

	if err := c.Create(t.Context(), restored); err != nil {
		t.Fatal(err)
	}

	warned.expect(s, `device 0 has 10.16.56.88, which VSphereMachine "cp-9" uses, too: find out whose VM answers there, and replace the other`)
	for name, want := range map[string]string{"cp-0": `VSphereMachine "cp-9" uses, too`, "cp-9": `VSphereMachine "cp-0" came with 10.16.56.88`} {
		if note := s.told(name, "AddressInUse"); !strings.Contains(note, want) {
			t.Errorf("%s is told %q, want %q in it", name, note, want)
		}
	}
	if got := s.metric("capv_static_ip_shared_addresses_total", nil); got <= counted {
		t.Errorf("%v are counted, want more than the %v before", got, counted)
	}
	// Another object for the same VM is no VM of its own.
	machine := s.machine("cp-0")
	s.expectDenial(s.env.Client.Create(t.Context(), copied(manifest, setProviderID(machine.Spec.ProviderID), func(object client.Object) {
		object.SetName("copy")
	})), inUseBy(oneAddress, `VSphereMachine "cp-0"`))

	s.delete(machine)
	s.gone(machine)
	if err := s.isHeld("cp-9", oneAddress); err != nil {
		t.Errorf("after the restored machine was deleted: %v", err)
	}
}

// setProviderID is harness.WithProviderID for a manifest.
func setProviderID(id string) harness.Option {
	return func(object client.Object) {
		object.(interface{ UnstructuredContent() map[string]any }).UnstructuredContent()["spec"].(map[string]any)["providerID"] = id
	}
}

func TestAddressThatAUserWritesIsWarnedOfWhereAnotherHasIt(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolRange(oneAddress, "10.16.56.89")), s.pooled("cp-0"))
	s.settled("cp-0")
	c, warned := s.warnedClient()

	machine := s.pooled("cp-1", harness.WithDevices(harness.StaticDevice(), harness.FixedDevice(oneAddress+"/24")))
	if err := c.Create(t.Context(), machine); err != nil {
		t.Fatal(err)
	}

	warned.expect(s, `device 1 has 10.16.56.88, which VSphereMachine "cp-0" uses, too: find out whose VM answers there, and replace the other`)
	s.delete(machine)
	s.gone(machine)
}

// The only control-plane machine may have its Cluster's endpoint for an address,
// and a backup brings VMs back without owners.
func TestRestoredMachineSharesWithItsOwnClusterAndVM(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	// An endpoint is on no network that could be told from others.
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.66.88", "10.16.66.88")), s.pooled("cp-0"))
	ip := s.settled("cp-0")
	manifest, machine := s.copyOf("cp-0", "cp-0"), s.machine("cp-0")
	vm := harness.VSphereVM(machine)
	vm.OwnerReferences = nil
	s.delete(machine)
	s.gone(machine)
	s.create(vm, harness.Cluster(s.ns, harness.DefaultCluster, func(object client.Object) {
		object.(*clusterv1.Cluster).Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: ip, Port: 6443}
	}))
	c, warned := s.warnedClient()

	if err := c.Create(t.Context(), copied(manifest, setProviderID("vsphere://"+s.ns))); err != nil {
		t.Fatal(err)
	}

	warned.expect(s)
	s.delete(vm)
	s.gone(vm)
	s.eventually("the claim to come back with its address", func(context.Context) error { return s.isFullyAdopted("cp-0", ip) })
}
