package lifecycle

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// maxWhole is up to how many VSphereVMs of a namespace are read one by one. Of more, all are
// read in full at once.
const maxWhole = 8

// observeVMs finds out which holdings a VSphereVM still stands for: the VM
// behind it may still answer on its address. They are read from the API server. Of most
// the owner is enough; in full are read those of machines of this name, and of nobody,
// because the address itself says more than an owner: a backup brings
// VMs back without owners, and a move changes the UIDs of machines.
func (r *Reconciler) observeVMs(ctx context.Context, s *state) error {
	vms, err := r.vms.read(ctx, s.namespace, func() ([]metav1.PartialObjectMetadata, error) { return r.listVMs(ctx, s.namespace) })
	if err != nil {
		return fmt.Errorf("listing VSphereVMs: %w", err)
	}
	candidates := make([]*capi.VSphereVM, len(vms))
	var whole []int
	for i := range vms {
		candidates[i] = &capi.VSphereVM{ObjectMeta: vms[i].ObjectMeta}
		if s.goesByAddress(candidates[i]) {
			whole = append(whole, i)
		}
	}
	if len(whole) > maxWhole {
		if candidates, err = r.listWholeVMs(ctx, s.namespace); err != nil {
			return err
		}
		whole = nil
	}
	for _, i := range whole {
		if candidates[i], err = r.readWhole(ctx, client.ObjectKeyFromObject(candidates[i])); err != nil {
			return err
		}
	}
	for _, h := range s.holdings {
		h.vmExists = slices.ContainsFunc(candidates, func(vm *capi.VSphereVM) bool {
			return h.isOfVM(vm, s.machineState)
		})
	}
	return nil
}

// listVMs lists the VSphereVMs of a namespace, and of each the metadata.
func (r *Reconciler) listVMs(ctx context.Context, namespace string) ([]metav1.PartialObjectMetadata, error) {
	kind, err := r.client.GroupVersionKindFor(&capi.VSphereVM{})
	if err != nil {
		return nil, err
	}
	list := kube.MetadataListOf(kind)
	if err := r.live.List(ctx, list, client.InNamespace(namespace)); err != nil && !kube.IsAbsent(err) {
		return nil, err
	}
	return list.Items, nil
}

func (r *Reconciler) listWholeVMs(ctx context.Context, namespace string) ([]*capi.VSphereVM, error) {
	list := &capi.VSphereVMList{}
	if err := r.live.List(ctx, list, client.InNamespace(namespace)); err != nil && !kube.IsAbsent(err) {
		return nil, fmt.Errorf("listing VSphereVMs in full: %w", err)
	}
	vms := make([]*capi.VSphereVM, len(list.Items))
	for i := range list.Items {
		vms[i] = &list.Items[i]
	}
	return vms, nil
}

// readWhole reads a VSphereVM of which only the metadata is known. One that is gone by now
// stands for nothing: it has no owner and no address.
func (r *Reconciler) readWhole(ctx context.Context, key client.ObjectKey) (*capi.VSphereVM, error) {
	vm := &capi.VSphereVM{}
	if _, err := r.exists(ctx, key, vm); err != nil {
		return nil, fmt.Errorf("reading VSphereVM %s: %w", key, err)
	}
	return vm, nil
}

// goesByAddress tells whether a VM may stand for a holding by the address that it has: no
// other machine than one of this name owns it.
func (m machineState) goesByAddress(vm *capi.VSphereVM) bool {
	owner := capi.OwnerMachine(vm)
	return owner.Name == "" || owner.Name == m.name || m.exists && owner.UID == m.uid
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
	case m.goesByAddress(vm):
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
