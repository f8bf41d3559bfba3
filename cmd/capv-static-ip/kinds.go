package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/mapper"
)

// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,verbs=get;list;watch

// syncTimeout bounds the wait for a new informer, before it is tried again.
const syncTimeout = 30 * time.Second

// kinds starts the informers of all sources, each as soon as its CRD is served:
// this program may be installed before CAPV or the IPAM provider, or without.
type kinds struct {
	mgr     manager.Manager
	sources map[schema.GroupKind][]allocator.Source

	mu      sync.Mutex
	started map[schema.GroupKind]bool
	// pending are the kinds whose CRD exists and whose informers have not synced.
	pending map[schema.GroupKind]bool
	listed  bool
}

func watchKinds(mgr manager.Manager, sources []allocator.Source) (*kinds, error) {
	k := &kinds{
		mgr:     mgr,
		sources: map[schema.GroupKind][]allocator.Source{},
		started: map[schema.GroupKind]bool{},
		pending: map[schema.GroupKind]bool{},
	}
	for _, s := range sources {
		gvk, err := apiutil.GVKForObject(s.Object, mgr.GetScheme())
		if err != nil {
			return nil, fmt.Errorf("finding the kind of a source: %w", err)
		}
		k.sources[gvk.GroupKind()] = append(k.sources[gvk.GroupKind()], s)
	}
	return k, k.watch()
}

// watch adds the controller that follows the CRDs, on every replica.
func (k *kinds) watch() error {
	c, err := controller.New("kinds", k.mgr, controller.Options{
		Reconciler:              k,
		MaxConcurrentReconciles: len(k.sources),
		NeedLeaderElection:      new(false),
		LogConstructor:          func(*reconcile.Request) logr.Logger { return k.mgr.GetLogger() },
	})
	if err != nil {
		return fmt.Errorf("adding the controller of kinds: %w", err)
	}
	enqueue := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, crd *metav1.PartialObjectMetadata) []reconcile.Request {
		if known, ok := k.mgr.GetRESTMapper().(*mapper.Mapper); ok {
			known.Changed()
		}
		gk, ok := k.kindOf(crd.Name)
		if !ok || !k.expect(gk) {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: crd.Name}}}
	})
	if err := c.Watch(source.Kind(k.mgr.GetCache(), crdMetadata(), enqueue)); err != nil {
		return fmt.Errorf("watching CRDs: %w", err)
	}
	return k.mgr.Add(k)
}

func crdMetadata() *metav1.PartialObjectMetadata {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	return crd
}

// kindOf is the kind of a source that a CRD of this name defines. CRDs are
// named <plural>.<group>, and all our kinds have regular plurals.
func (k *kinds) kindOf(crd string) (schema.GroupKind, bool) {
	for gk := range k.sources {
		plural, _ := meta.UnsafeGuessKindToResource(gk.WithVersion(""))
		if crd == plural.Resource+"."+gk.Group {
			return gk, true
		}
	}
	return schema.GroupKind{}, false
}

// expect notes that the CRD of a kind exists, and tells whether there is
// anything left to start.
func (k *kinds) expect(gk schema.GroupKind) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.started[gk] {
		k.pending[gk] = true
	}
	return !k.started[gk]
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (k *kinds) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable. It notes when the CRDs that exist have all
// been seen: before that it is not known what there is to wait for.
func (k *kinds) Start(ctx context.Context) error {
	var crds metav1.PartialObjectMetadataList
	crds.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinitionList"))
	if err := k.mgr.GetCache().List(ctx, &crds); err != nil {
		return client.IgnoreNotFound(err)
	}
	for i := range crds.Items {
		if gk, ok := k.kindOf(crds.Items[i].Name); ok {
			k.expect(gk)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listed = true
	return nil
}

// Reconcile starts the sources of the kind that a CRD defines. The kind may not
// be served yet, although its CRD exists: then it is tried again.
func (k *kinds) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	gk, ok := k.kindOf(req.Name)
	if !ok || !k.expect(gk) {
		return reconcile.Result{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	err := k.start(ctx, gk)
	if meta.IsNoMatchError(err) {
		klog.FromContext(ctx).V(2).Info("Kind is not served yet", "kind", gk.String())
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("starting to watch %s: %w", gk, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.started[gk] = true
	delete(k.pending, gk)
	klog.FromContext(ctx).Info("Watching a kind", "kind", gk.String())
	return reconcile.Result{}, nil
}

// start adds all indexes of a kind before anything reads by them. Indexes that
// were added by an earlier try are left as they are.
func (k *kinds) start(ctx context.Context, gk schema.GroupKind) error {
	sources := k.sources[gk]
	for i, s := range sources {
		for name, index := range s.Indexes {
			if err := k.mgr.GetFieldIndexer().IndexField(ctx, s.Object, name, index); err != nil {
				return fmt.Errorf("adding index %s: %w", name, err)
			}
			delete(sources[i].Indexes, name)
		}
	}
	for i, s := range sources {
		informer, err := k.mgr.GetCache().GetInformer(ctx, s.Object)
		if err != nil {
			return fmt.Errorf("starting the informer: %w", err)
		}
		if s.Started == nil {
			continue
		}
		if err := s.Started(ctx, informer); err != nil {
			return fmt.Errorf("adding a handler: %w", err)
		}
		sources[i].Started = nil
	}
	return nil
}

// synced returns an error while informers are still to be filled.
func (k *kinds) synced() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.listed {
		return errors.New("CRDs are not listed yet")
	}
	if len(k.pending) > 0 {
		var names []string
		for gk := range k.pending {
			names = append(names, gk.String())
		}
		return fmt.Errorf("informers have not synced yet: %s", strings.Join(names, ", "))
	}
	return nil
}
