package allocator

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch

// FrozenCheck is how often it is looked whether something is still frozen that is not to be
// given back meanwhile.
const FrozenCheck = 10 * time.Second

// Freezer finds what is frozen. Who claims asks it by the cache. Who is about to give
// something back asks the API server, unless the cache says that it is frozen: that it is
// not may be what the cache does not know yet. Its zero value knows of nothing that is.
type Freezer struct {
	Providers ipam.Providers
	// Cached reads from the cache, Live past it.
	Cached, Live client.Reader
	// Flag is why all is frozen, empty if it is not.
	Flag string
}

// Namespaces is an empty Namespace, of which the metadata alone is read.
func Namespaces() *metav1.PartialObjectMetadata {
	return kube.MetadataOf(corev1.SchemeGroupVersion.WithKind("Namespace"))
}

// NamespaceList is to lists of them what Namespaces is to one.
func NamespaceList() *metav1.PartialObjectMetadataList {
	return kube.MetadataListOf(corev1.SchemeGroupVersion.WithKind("Namespace"))
}

// FreezesOrThaws passes the events after which a namespace is frozen, or is so no more.
func FreezesOrThaws() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			_, was := ipam.IsFrozen(e.ObjectOld)
			_, is := ipam.IsFrozen(e.ObjectNew)
			return was != is
		},
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
}

// Namespace finds what freezes all claims of a namespace, nil if nothing does.
func (f Freezer) Namespace(ctx context.Context, reader client.Reader, namespace string) (*ipam.Freeze, error) {
	if freeze := ipam.FrozenBy(ipam.Pool{}, nil, f.Flag); freeze != nil || f.Live == nil {
		return freeze, nil
	}
	object := Namespaces()
	err := reader.Get(ctx, types.NamespacedName{Name: namespace}, object)
	switch {
	case kube.IsAbsent(err), apierrors.IsForbidden(err):
		// Whoever took the right away is not to hold up machines.
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading namespace %s: %w", namespace, err)
	}
	return ipam.FrozenBy(ipam.Pool{}, object, ""), nil
}

// Claims finds what freezes the claims of a namespace on a pool, for who is about to give one
// back. While it is frozen, each that waits asks again and again: these the cache can answer.
func (f Freezer) Claims(ctx context.Context, namespace string, ref ipam.PoolReference) (*ipam.Freeze, error) {
	if f.Cached != nil {
		if freeze, err := f.claims(ctx, f.Cached, namespace, ref); err == nil && freeze != nil {
			return freeze, nil
		}
	}
	return f.claims(ctx, f.Live, namespace, ref)
}

func (f Freezer) claims(ctx context.Context, reader client.Reader, namespace string, ref ipam.PoolReference) (*ipam.Freeze, error) {
	freeze, err := f.Namespace(ctx, reader, namespace)
	if freeze != nil || err != nil || f.Live == nil || ref == (ipam.PoolReference{}) {
		return freeze, err
	}
	pool, err := f.Providers.For(ref).Read(ctx, reader, f.Live, namespace, ref)
	switch {
	case apierrors.IsForbidden(err):
		return nil, nil
	case err != nil || pool == nil:
		return nil, err
	}
	return ipam.FrozenBy(ipam.Pool{Object: pool, Reference: ref}, nil, ""), nil
}

// checkFrozen refuses, by what the API server says, to give something back of a pool that is
// frozen.
func (a *Allocator) checkFrozen(ctx context.Context, namespace string, pool ipam.PoolReference) error {
	freeze, err := a.Freezer.Claims(ctx, namespace, pool)
	if err != nil || freeze == nil {
		return err
	}
	return freeze.Refuse()
}

// Frozen tells whether claims of a namespace on a pool are frozen.
func (a *Allocator) Frozen(ctx context.Context, namespace string, pool ipam.PoolReference) (bool, error) {
	freeze, err := a.Freezer.Claims(ctx, namespace, pool)
	return freeze != nil, err
}

// IsFrozen tells whether an error says that something is frozen.
func IsFrozen(err error) bool {
	refusal, refused := ipam.AsRefusal(err)
	return refused && refusal.Reason == ipam.Frozen
}
