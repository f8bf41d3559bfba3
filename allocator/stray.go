package allocator

import (
	"context"
	"fmt"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// DeleteStray deletes an address that leads nowhere.
func DeleteStray(ctx context.Context, c client.Client, address ipam.Address) error {
	if err := deleteUnclaimed(ctx, c, address.Object); err != nil {
		return err
	}
	strayAddressesDeleted.Inc()
	klog.FromContext(ctx).Info("Deleted an address that the provider had lost", "address", klog.KObj(address), "claim", address.Claim)
	return nil
}

// GiveBack deletes an address that was taken and that nobody uses. Interrupted, it leaves a
// stray one. An address with a finalizer of somebody else stays: it may be used by them.
func GiveBack(ctx context.Context, c client.Client, provider ipam.Provider, address ipam.Address) error {
	before := address.DeepCopyObject().(client.Object)
	holder := ipam.HolderOf(address)
	ipam.Unprotect(address)
	if !provider.HasOnlyOwnFinalizers(address) {
		return nil
	}
	kube.SetAnnotation(address, ipam.MachineNameAnnotation, holder.Name)
	if err := kube.PatchAsRead(ctx, c, address.Object, before); err != nil {
		return client.IgnoreNotFound(err)
	}
	if err := deleteUnclaimed(ctx, c, address.Object); err != nil {
		return err
	}
	addressesGivenBack.Inc()
	klog.FromContext(ctx).Info("Gave an address back that was taken for a machine", "address", klog.KObj(address), "claim", address.Claim)
	return nil
}

// deleteUnclaimed deletes an address, and takes its provider's finalizers off before: no
// claim leads the provider to it.
func deleteUnclaimed(ctx context.Context, c client.Client, address client.Object) error {
	before := address.DeepCopyObject().(client.Object)
	address.SetFinalizers(nil)
	if err := kube.PatchAsRead(ctx, c, address, before); err != nil {
		return client.IgnoreNotFound(err)
	}
	if err := kube.DeleteAsRead(ctx, c, address); err != nil {
		return fmt.Errorf("deleting address %s: %w", klog.KObj(address), err)
	}
	return nil
}
