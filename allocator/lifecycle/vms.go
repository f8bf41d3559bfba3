package lifecycle

import (
	"context"
	"fmt"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// observeVMs finds out which holdings a VSphereVM still stands for: the VM
// behind it may still answer on its address. They are read from the API server,
// and in full, because the address itself says more than an owner: a backup brings
// VMs back without owners, and a move changes the UIDs of machines.
func (r *Reconciler) observeVMs(ctx context.Context, s *state) error {
	vms := &capi.VSphereVMList{}
	if err := r.live.List(ctx, vms, client.InNamespace(s.namespace)); err != nil && !kube.IsAbsent(err) {
		return fmt.Errorf("listing VSphereVMs: %w", err)
	}
	for _, h := range s.holdings {
		h.vmExists = slices.ContainsFunc(vms.Items, func(vm capi.VSphereVM) bool {
			return h.isOfVM(&vm, s.machineState)
		})
	}
	return nil
}

// isOfVM tells whether the VM is that of the machine which holds, or held, the
// address; or whether it has the address, and no other machine than one of that
// name owns it.
func (h *holding) isOfVM(vm *capi.VSphereVM, m machineState) bool {
	owner, uid := capi.OwnerMachine(vm), ""
	if h.address != nil {
		uid = h.address.GetAnnotations()[ipam.MachineUIDAnnotation]
	}
	switch {
	// By its owner alone, whatever addresses it has: it may get this one yet.
	case uid != "" && string(owner.UID) == uid:
		return true
	case m.exists && owner.UID == m.uid && uid == "" && !h.isUnneeded(m):
		return true
	case !m.exists && owner.Name == m.name && uid == "":
		return true
	// By the address that it has, unless another machine owns it.
	case owner.Name == "", owner.Name == m.name, m.exists && owner.UID == m.uid:
		return h.address != nil && isOn(vm, h.address.IP)
	}
	return false
}

// isUnneeded tells whether a living machine neither says nor shows that it has the
// address. Its VM is then made without it.
func (h *holding) isUnneeded(m machineState) bool {
	return m.exists && !m.deleting && h.annotated == nil && !h.onDevice
}

// isOn tells whether a VM has an address on a device, or reports it.
func isOn(vm *capi.VSphereVM, text string) bool {
	ip := capi.ParseAddress(text)
	return ip.IsValid() && slices.ContainsFunc(vm.Addresses(), func(place capi.Place) bool { return place.IP == ip })
}
