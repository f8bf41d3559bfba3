package kube

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// List lists the objects of the kind of this empty one. There are none where the
// kind is not served.
func List(ctx context.Context, c client.Client, kind client.Object, opts ...client.ListOption) ([]client.Object, error) {
	return ListFrom(ctx, c, c, kind, opts...)
}

// ListFrom is List with a reader other than the client, which only tells what
// the kinds are.
func ListFrom(ctx context.Context, c client.Client, reader client.Reader, kind client.Object, opts ...client.ListOption) ([]client.Object, error) {
	list, err := emptyList(c, kind)
	if err != nil {
		return nil, err
	}
	if err := reader.List(ctx, list, opts...); err != nil {
		if IsAbsent(err) {
			return nil, nil
		}
		return nil, err
	}
	return objectsOf(list)
}

func emptyList(c client.Client, kind client.Object) (client.ObjectList, error) {
	gvk, err := c.GroupVersionKindFor(kind)
	if err != nil {
		return nil, err
	}
	if _, ok := kind.(*metav1.PartialObjectMetadata); ok {
		return MetadataListOf(gvk), nil
	}
	gvk.Kind += "List"
	if _, ok := kind.(*unstructured.Unstructured); ok {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk)
		return list, nil
	}
	list, err := c.Scheme().New(gvk)
	if err != nil {
		return nil, err
	}
	return list.(client.ObjectList), nil
}

// MetadataOf is an empty object of a kind of which only the metadata is read.
func MetadataOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	obj := &metav1.PartialObjectMetadata{}
	obj.SetGroupVersionKind(kind)
	return obj
}

// MetadataListOf is to lists of a kind what MetadataOf is to its objects.
func MetadataListOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	return list
}

// IsAbsent tells whether an error says that an object does not exist, be it
// because its kind is not served.
func IsAbsent(err error) bool {
	return apierrors.IsNotFound(err) || meta.IsNoMatchError(err)
}

// ListPage lists one page of the objects of a kind, and returns where the next begins,
// empty if there is none.
func ListPage(ctx context.Context, c client.Client, reader client.Reader, kind client.Object, options *client.ListOptions) ([]client.Object, string, error) {
	list, err := emptyList(c, kind)
	if err != nil {
		return nil, "", err
	}
	if err := reader.List(ctx, list, options); err != nil {
		if IsAbsent(err) {
			return nil, "", nil
		}
		return nil, "", err
	}
	objects, err := objectsOf(list)
	return objects, list.GetContinue(), err
}

func objectsOf(list client.ObjectList) ([]client.Object, error) {
	objects := make([]client.Object, 0, meta.LenList(list))
	err := meta.EachListItem(list, func(item runtime.Object) error {
		objects = append(objects, item.(client.Object))
		return nil
	})
	return objects, err
}
