// Package faults is what unit tests have go wrong that no real API server can be made
// to do.
package faults

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// Failing is a server that answers reads of objects, or of lists, of this type with an
// error, and all others like the one that it stands before.
func Failing[object any](c client.WithWatch, failure error) client.Reader {
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if _, is := any(obj).(object); is {
				return failure
			}
			return c.Get(ctx, key, obj, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, is := any(list).(object); is {
				return failure
			}
			return c.List(ctx, list, opts...)
		},
	})
}
