package kube

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// PatchAsRead writes what has been changed in an object since before, unless others
// have changed it, too: then it returns a conflict.
func PatchAsRead(ctx context.Context, c client.Writer, obj, before client.Object) error {
	return c.Patch(ctx, obj, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// DeleteAsRead deletes an object unless it has changed, or has been replaced,
// since it was read: then it returns a conflict. That it is gone is no error.
func DeleteAsRead(ctx context.Context, c client.Writer, obj client.Object) error {
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	err := c.Delete(ctx, obj, client.Preconditions{UID: &uid, ResourceVersion: &version})
	return client.IgnoreNotFound(err)
}
