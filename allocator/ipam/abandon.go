package ipam

import (
	"context"
	"fmt"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/kube"
)

// DropFinalizers finishes the deletion of a claim that its provider will never look at
// again, see Provider.Abandons, unless others still hold it.
func DropFinalizers(ctx context.Context, c client.Writer, provider Provider, claim client.Object) error {
	before := claim.DeepCopyObject().(client.Object)
	controllerutil.RemoveFinalizer(claim, InUseFinalizer)
	if !provider.HasOnlyOwnFinalizers(claim) {
		return nil
	}
	claim.SetFinalizers(nil)
	if err := kube.PatchAsRead(ctx, c, claim, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("abandoning claim %s: %w", klog.KObj(claim), err)
	}
	klog.FromContext(ctx).Info("Let a claim go whose pool does not exist", "claim", klog.KObj(claim))
	return nil
}
