package allocator

import (
	"context"

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

// Sources are the kinds of the provider, and handlers that wake waiting requests.
func (a *Allocator) Sources() []Source {
	pool, claim, address := a.provider.Kinds()
	return []Source{
		{Object: pool},
		{Object: claim, Started: func(_ context.Context, i cache.Informer) error {
			_, err := i.AddEventHandler(a.wakeOn(client.ObjectKeyFromObject))
			return err
		}},
		{Object: address, Started: func(_ context.Context, i cache.Informer) error {
			_, err := i.AddEventHandler(a.wakeOn(a.claimOfAddress))
			return err
		}},
	}
}
