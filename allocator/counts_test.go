package allocator

import (
	"context"
	"errors"
	"testing"
	"time"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/ledger"
)

// told is an informer that tells of what there is, and then of nothing more.
type told struct {
	cache.Informer
	objects []client.Object
}

type registration struct {
	toolscache.ResourceEventHandlerRegistration
}

func (registration) HasSynced() bool { return true }

func (i told) AddEventHandler(handler toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	for _, obj := range i.objects {
		handler.OnAdd(obj, true)
	}
	return registration{}, nil
}

// count has an Allocator count what its cache has now.
func count(t *testing.T, a *Allocator) {
	t.Helper()
	a.Counts = ledger.New(a.providers)
	for _, source := range a.Counts.Sources() {
		// A kind that the cache does not know has no objects.
		objects, _ := kube.List(t.Context(), a.client, source.Object)
		if err := source.Started(t.Context(), told{objects: objects}); err != nil {
			t.Fatal(err)
		}
	}
	a.client = a.Counts.Client(a.client)
}

// bothWays runs a test by lists, and then by counts.
func bothWays(t *testing.T, test func(t *testing.T, prepare func(*testing.T, *Allocator))) {
	t.Run("listed", func(t *testing.T) { test(t, func(*testing.T, *Allocator) {}) })
	t.Run("counted", func(t *testing.T) { test(t, count) })
}

// Of most claims that wait it is known that their machines are stored.
func TestClaimsOfStoredMachinesAreNotReadWhereTheyAreCounted(t *testing.T) {
	e := earlierOf(time.Now().Add(-time.Hour))
	e.others = append(e.others, storedMachine("cp-9"))
	a := e.allocator(t)
	count(t, a)
	for _, provider := range a.providers {
		claims, err := a.requested(t.Context(), provider, e.next)
		if err != nil || len(claims) != 0 {
			t.Errorf("%s: got %d claims and error %v, want none", provider.Name(), len(claims), err)
		}
	}
}

// The cache may be ahead of what is counted.
func TestClaimThatIsCountedAndWaitsNoMoreIsLeftOut(t *testing.T) {
	e := earlierOf(time.Now().Add(-time.Hour))
	a := e.allocator(t)
	count(t, a)
	adopted := e.claim.DeepCopy()
	if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(e.claim), adopted); err != nil {
		t.Fatal(err)
	}
	delete(adopted.Annotations, ipam.RequestedByAnnotation)
	if err := a.client.Update(t.Context(), adopted); err != nil {
		t.Fatal(err)
	}
	if claims, err := a.requested(t.Context(), a.providers[0], e.next); err != nil || len(claims) != 0 {
		t.Errorf("got %d claims and error %v, want none: it is adopted", len(claims), err)
	}
	if err := a.client.Delete(t.Context(), adopted); err != nil {
		t.Fatal(err)
	}
	if claims, err := a.requested(t.Context(), a.providers[0], e.next); err != nil || len(claims) != 0 {
		t.Errorf("got %d claims and error %v, want none: it is gone", len(claims), err)
	}
}

// unlisted is a client that counts, and cannot list.
type unlisted struct {
	client.Client
	counts *ledger.Ledger
}

func (*unlisted) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("it is listed")
}

func (u *unlisted) Used(namespace string, pool ipam.PoolReference) (ipam.Used, bool) {
	return u.counts.Used(namespace, pool)
}

// A pool that is counted needs no list: those of this client fail.
func TestPoolIsReadWithoutAListWhereItIsCounted(t *testing.T) {
	a := played(t, poolOf("one", "10.0.0.20"))
	count(t, a)
	a.client = &unlisted{a.client, a.Counts}
	attempt := a.attempt(wanting("one"))
	if err := a.plan(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	if free, _ := attempt.allocations[0].pool.Free(make([]string, 9)); free == 0 {
		t.Error("nothing is free")
	}
}
