package ipam

import (
	"context"
	"fmt"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/kube"
)

// DropFinalizers finishes the deletion of a claim that its provider abandons, see
// Abandoner: it takes our finalizer off, and the provider's. Where there is one of
// somebody else, too, it leaves all of them.
func DropFinalizers(ctx context.Context, c client.Writer, provider Provider, claim client.Object) error {
	before := claim.DeepCopyObject().(client.Object)
	controllerutil.RemoveFinalizer(claim, InUseFinalizer)
	if !provider.HasOnlyOwnFinalizers(claim) {
		return nil
	}
	claim.SetFinalizers(nil)
	if err := kube.PatchAsRead(ctx, c, claim, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing the finalizers from claim %s: %w", klog.KObj(claim), err)
	}
	klog.FromContext(ctx).Info("Removed the finalizers from a claim whose pool does not exist", "claim", klog.KObj(claim))
	return nil
}
