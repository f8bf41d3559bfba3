package inventory

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// list lists a kind by pages, and notes it where that is not allowed.
func (s Source) list(ctx context.Context, g *Graph, kind client.Object, each func(client.Object)) {
	s.listBy(ctx, g, kind, client.ListOptions{}, each)
}

// listBy is list of those objects that these options select.
func (s Source) listBy(ctx context.Context, g *Graph, kind client.Object, options client.ListOptions, each func(client.Object)) {
	for _, namespace := range s.namespacesOf(kind) {
		options.Namespace = namespace
		objects, err := s.listWhole(ctx, kind, options)
		if err != nil {
			g.Unseen = append(g.Unseen, Unseen{Kind: s.nameOf(kind), Err: err})
			return
		}
		for _, object := range objects {
			each(object)
		}
	}
}

// namespacesOf are those in which a kind is listed, an empty one for all.
func (s Source) namespacesOf(kind client.Object) []string {
	if s.Namespace == "" && len(s.namespaces) == 0 {
		return []string{metav1.NamespaceAll}
	}
	if namespaced, err := s.Client.IsObjectNamespaced(kind); err != nil || !namespaced {
		return []string{metav1.NamespaceAll}
	}
	if len(s.namespaces) > 0 {
		return s.namespaces
	}
	return []string{s.Namespace}
}

// listWhole lists by pages, or at once if more has changed since the first page than the
// API server keeps: all at once is of one moment.
func (s Source) listWhole(ctx context.Context, kind client.Object, options client.ListOptions) ([]client.Object, error) {
	options.Limit = s.PageSize
	objects, err := s.pages(ctx, kind, options)
	if !apierrors.IsResourceExpired(err) {
		return objects, err
	}
	options.Limit = 0
	return s.pages(ctx, kind, options)
}

func (s Source) pages(ctx context.Context, kind client.Object, options client.ListOptions) ([]client.Object, error) {
	var all []client.Object
	for {
		objects, next, err := kube.ListPage(ctx, s.Client, s.Reader, kind, &options)
		if err != nil {
			return nil, err
		}
		if s.PageSize > 0 {
			// They are nobody else's. Who has written which field is half of an object, and
			// is asked of those alone that were refused.
			for _, object := range objects {
				if _, wasRefused := object.GetAnnotations()[ipam.RefusedByAnnotation]; !wasRefused {
					object.SetManagedFields(nil)
				}
			}
		}
		all = append(all, objects...)
		// A cache has all of it at once, whatever it says of more.
		if options.Continue = next; next == "" || options.Limit == 0 {
			return all, nil
		}
	}
}
