package informers

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Source is a kind that some part of the program reads or watches. Its informer
// is started when the kind is first served, be that at start or long after it.
type Source struct {
	// Object is an empty object of the kind; metadata-only where that is enough.
	Object client.Object
	// Indexes are set before the first read, by name.
	Indexes map[string]client.IndexerFunc
	// Started is called once, when the informer has synced. It may be nil.
	Started func(ctx context.Context, informer cache.Informer) error
}

// OnChange adds a handler to an informer that is called with every object that
// is added, changed or deleted.
func OnChange(handle func(client.Object)) func(context.Context, cache.Informer) error {
	call := func(event any) {
		if gone, ok := event.(toolscache.DeletedFinalStateUnknown); ok {
			event = gone.Obj
		}
		if obj, ok := event.(client.Object); ok {
			handle(obj)
		}
	}
	handler := toolscache.ResourceEventHandlerFuncs{
		AddFunc:    call,
		UpdateFunc: func(_, obj any) { call(obj) },
		DeleteFunc: call,
	}
	return func(_ context.Context, informer cache.Informer) error {
		_, err := informer.AddEventHandler(handler)
		return err
	}
}

// Follow adds a handler to an informer for what counts the objects: put is called with each
// that is there, in each of its states, and gone with the name of each that is not there any
// more. Of one that went unseen there is an older state at best, so that its name has to do.
// started is called with what tells whether all objects that were there have been put.
func Follow(put func(client.Object), gone func(types.NamespacedName), started func(hasSynced func() bool)) func(context.Context, cache.Informer) error {
	present := func(event any) {
		if obj, ok := event.(client.Object); ok {
			put(obj)
		}
	}
	handler := toolscache.ResourceEventHandlerFuncs{
		AddFunc:    present,
		UpdateFunc: func(_, obj any) { present(obj) },
		DeleteFunc: func(event any) {
			key, err := toolscache.DeletionHandlingMetaNamespaceKeyFunc(event)
			if err != nil {
				return
			}
			if namespace, name, err := toolscache.SplitMetaNamespaceKey(key); err == nil {
				gone(types.NamespacedName{Namespace: namespace, Name: name})
			}
		},
	}
	return func(_ context.Context, informer cache.Informer) error {
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			return err
		}
		started(registration.HasSynced)
		return nil
	}
}
