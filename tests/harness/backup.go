package harness

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Saved is what a backup has of an object: neither owners, nor finalizers, nor status.
func Saved(object client.Object) (*unstructured.Unstructured, error) {
	saved, err := Unstructured(object)
	if err != nil {
		return nil, err
	}
	saved.SetFinalizers(nil)
	saved.SetOwnerReferences(nil)
	return saved, nil
}

// InRestoreOrder sorts what a backup has as Velero restores it: Secrets first, Clusters last,
// and the others by the names of their resources.
func InRestoreOrder(saved []*unstructured.Unstructured) {
	slices.SortStableFunc(saved, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(cmp.Compare(restoreRank(a), restoreRank(b)), cmp.Compare(ResourceOf(a), ResourceOf(b)))
	})
}

func restoreRank(saved *unstructured.Unstructured) int {
	switch ResourceOf(saved) {
	case "secrets":
		return -1
	case "clusters." + clusterv1.GroupVersion.Group:
		return 1
	default:
		return 0
	}
}

// ResourceOf is the resource of an object with its group, as Velero and kubectl name it:
// "ippools.ipam.metal3.io".
func ResourceOf(object *unstructured.Unstructured) string {
	resource, _ := meta.UnsafeGuessKindToResource(object.GroupVersionKind())
	return resource.GroupResource().String()
}
