package allocator

import (
	"context"
	"fmt"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// DeleteStray deletes an address that leads nowhere, and takes its provider's finalizers
// off before: no claim leads the provider to it.
func DeleteStray(ctx context.Context, c client.Client, address ipam.Address) error {
	before := address.DeepCopyObject().(client.Object)
	address.SetFinalizers(nil)
	if err := kube.PatchAsRead(ctx, c, address.Object, before); err != nil {
		return client.IgnoreNotFound(err)
	}
	if err := kube.DeleteAsRead(ctx, c, address.Object); err != nil {
		return fmt.Errorf("deleting address %s: %w", klog.KObj(address), err)
	}
	strayAddressesDeleted.Inc()
	klog.FromContext(ctx).Info("Deleted an address that the provider had lost", "address", klog.KObj(address), "claim", address.Claim)
	return nil
}
