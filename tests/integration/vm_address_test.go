package integration

import (
	"context"
	"errors"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// A backup brings VSphereVMs without owners, and the UID on an address may be that
// of the machine before a move or a restore: the address itself says whose it is.
func TestVirtualMachineKeepsItsAddressWhateverOwnsIt(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, test := range map[string]struct {
			// ip is in no other test: what a VM reports may be on any network.
			ip     int
			change func(*scene, *capvv1.VSphereVM)
			// before the machine goes, with the VM there.
			before func(*scene, *clusterv1.Cluster)
		}{
			"nobody, with the address on a device": {ip: 141, change: func(_ *scene, vm *capvv1.VSphereVM) { vm.OwnerReferences = nil }},
			"nobody, with the address in its status": {ip: 142, change: func(s *scene, vm *capvv1.VSphereVM) {
				vm.OwnerReferences = nil
				vm.Spec.Network.Devices = []capvv1.NetworkDeviceSpec{harness.DHCPDevice()}
				vm.Status.Addresses = []string{"fe80::1", s.ip("cp-0")}
			}},
			"nobody, with the address on a network": {ip: 143, change: func(s *scene, vm *capvv1.VSphereVM) {
				vm.OwnerReferences = nil
				vm.Spec.Network.Devices = []capvv1.NetworkDeviceSpec{harness.DHCPDevice()}
				vm.Status.Network = []capvv1.NetworkStatus{{MACAddr: "00:50:56:00:00:01", IPAddrs: []string{s.ip("cp-0")}}}
			}},
			"the machine, whose UID is not on the address": {ip: 144, before: func(s *scene, cluster *clusterv1.Cluster) {
				s.change(cluster, func() { cluster.Spec.Paused = new(true) })
				address, err := s.address(s.ip("cp-0"))
				if err != nil {
					s.Fatal(err)
				}
				s.annotate(address, ipam.MachineUIDAnnotation, new("11111111-before-the-move"))
			}},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.pool(f, f.WithIPs(test.ip, test.ip))
				machine := s.asks(f, "cp-0")
				s.create(machine)
				ip := s.settled("cp-0")
				vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(vmFinalizer))
				if test.change != nil {
					test.change(s, vm)
				}
				status := vm.Status
				s.create(vm)
				before := vm.DeepCopy()
				vm.Status = status
				if err := s.env.Client.Status().Patch(t.Context(), vm, client.MergeFrom(before)); err != nil {
					t.Fatal(err)
				}
				cluster := harness.Cluster(s.ns, harness.DefaultCluster)
				if test.before != nil {
					test.before(s, cluster)
				}

				s.delete(machine)
				s.gone(machine)
				next := s.rival(f, "next")
				s.consistently("the VM's address is protected", func(context.Context) error { return errors.Join(s.isProtected(ip), next.hasNothing()) })
				s.refused(s.asks(f, "cp-1", harness.WithCluster("")), "is exhausted")

				s.gone(s.deleted(vm, vmFinalizer))
				s.change(cluster, func() { cluster.Spec.Paused = nil })
				next.gets(ip)
			})
		}
	})
}
