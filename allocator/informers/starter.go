package informers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capv-static-ip.dev/allocator/limit"
	"capv-static-ip.dev/allocator/mapper"
)

// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,verbs=get;list;watch

// syncTimeout bounds the wait for a new informer, before it is tried again.
const syncTimeout = 30 * time.Second

// Starter starts the informers of all sources, each as soon as its CRD is served:
// this program may be installed before CAPV or the IPAM provider, or without.
type Starter struct {
	cache  cache.Cache
	mapper meta.RESTMapper
	log    logr.Logger
	// live reads a CRD when it matters which versions it serves.
	live client.Reader
	// choose makes the scheme that the program would have if it were started now.
	choose func() (*runtime.Scheme, error)
	// outdated receives why the program has to be started again.
	outdated chan error

	mu     sync.Mutex
	kinds  map[schema.GroupKind]*kind
	listed bool
}

// kind is a kind of object that some part of the program reads or watches.
type kind struct {
	sources []*started
	version string
	// needed says that admission cannot do without it.
	needed bool

	// expected: its CRD exists, and its informers have not synced. started: they
	// have. said: it was logged that its CRD does not serve the version. missing: it
	// was logged that there is no CRD.
	expected, started, said, missing bool
	// served is the state in which its CRD was last seen to serve the version,
	// reviewed that in which it was last read, and looks how often since.
	served, reviewed string
	looks            int
}

// started is a source, and what of it has been started.
type started struct {
	Source
	indexed map[string]bool
	handled bool
}

// NewStarter adds to the manager what starts the informers: of what admission
// needs to be ready, and of what only controllers need.
func NewStarter(mgr manager.Manager, live client.Reader, choose func() (*runtime.Scheme, error), needed, others []Source) (*Starter, error) {
	k := newStarter(mgr, live, choose)
	if err := k.collect(mgr.GetScheme(), needed, others); err != nil {
		return nil, err
	}
	return k, k.watch(mgr, "kinds")
}

// NewOptionalStarter is NewStarter for what nothing but advice needs. It is one of its own,
// so that nobody waits for these informers who needs others of the same kinds.
func NewOptionalStarter(mgr manager.Manager, live client.Reader, choose func() (*runtime.Scheme, error), sources []Source) (*Starter, error) {
	k := newStarter(mgr, live, choose)
	if err := k.collect(mgr.GetScheme(), nil, sources); err != nil {
		return nil, err
	}
	return k, k.watch(mgr, "optional-kinds")
}

func newStarter(mgr manager.Manager, live client.Reader, choose func() (*runtime.Scheme, error)) *Starter {
	return &Starter{
		cache:    mgr.GetCache(),
		mapper:   mgr.GetRESTMapper(),
		log:      mgr.GetLogger(),
		live:     live,
		choose:   choose,
		outdated: make(chan error, 1),
	}
}

// collect puts the sources of one kind together.
func (k *Starter) collect(scheme *runtime.Scheme, needed, others []Source) error {
	k.kinds = map[schema.GroupKind]*kind{}
	for i, s := range slices.Concat(others, needed) {
		gvk, err := apiutil.GVKForObject(s.Object, scheme)
		if err != nil {
			return fmt.Errorf("finding the kind of a source: %w", err)
		}
		known := k.kinds[gvk.GroupKind()]
		if known == nil {
			known = &kind{version: gvk.Version}
			k.kinds[gvk.GroupKind()] = known
		}
		known.sources = append(known.sources, &started{Source: s, indexed: map[string]bool{}})
		known.needed = known.needed || i >= len(others)
	}
	return nil
}

// watch adds the controller that follows the CRDs, on every replica.
func (k *Starter) watch(mgr manager.Manager, name string) error {
	c, err := controller.New(name, mgr, controller.Options{
		Reconciler:              k,
		MaxConcurrentReconciles: len(k.kinds),
		RateLimiter:             limit.Failures[reconcile.Request](),
		NeedLeaderElection:      new(false),
		LogConstructor:          func(*reconcile.Request) logr.Logger { return k.log },
	})
	if err != nil {
		return fmt.Errorf("adding the controller of kinds: %w", err)
	}
	enqueue := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, crd *metav1.PartialObjectMetadata) []reconcile.Request {
		if known, ok := k.mapper.(*mapper.Mapper); ok {
			known.Changed()
		}
		gk, ok := k.kindOf(crd.Name)
		if !ok {
			return nil
		}
		k.expect(gk)
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: crd.Name}}}
	})
	if err := c.Watch(source.Kind(k.cache, crdMetadata(), enqueue)); err != nil {
		return fmt.Errorf("watching CRDs: %w", err)
	}
	return mgr.Add(k)
}

func crdMetadata() *metav1.PartialObjectMetadata {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	return crd
}

// kindOf is the kind of a source that a CRD of this name defines.
func (k *Starter) kindOf(crd string) (schema.GroupKind, bool) {
	for gk := range k.kinds {
		if crd == crdOf(gk) {
			return gk, true
		}
	}
	return schema.GroupKind{}, false
}

// expect notes that the CRD of a kind exists.
func (k *Starter) expect(gk schema.GroupKind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.kinds[gk]
	known.missing = false
	if !known.started && !known.said {
		known.expected = true
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (k *Starter) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable. It notes when the CRDs that exist have all
// been seen: before that it is not known what there is to wait for, and what is
// missing. It ends with
// an error, and the program with it, when that has to be started again.
func (k *Starter) Start(ctx context.Context) error {
	var crds metav1.PartialObjectMetadataList
	crds.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinitionList"))
	if err := k.cache.List(ctx, &crds); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("listing CRDs: %w", err)
	}
	missing := slices.Collect(maps.Keys(k.kinds))
	for i := range crds.Items {
		if gk, ok := k.kindOf(crds.Items[i].Name); ok {
			k.expect(gk)
			missing = slices.DeleteFunc(missing, func(other schema.GroupKind) bool { return other == gk })
		}
	}
	k.sayMissing(missing...)
	k.mu.Lock()
	k.listed = true
	k.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case err := <-k.outdated:
		return err
	}
}

// Reconcile starts the sources of the kind that a CRD defines, and checks that the
// CRD serves the version of the kind that is used here.
func (k *Starter) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	gk, ok := k.kindOf(req.Name)
	if !ok {
		return reconcile.Result{}, nil
	}
	crd := crdMetadata()
	if err := k.cache.Get(ctx, req.NamespacedName, crd); err != nil {
		if apierrors.IsNotFound(err) {
			k.settle(gk, func(known *kind) { known.expected, known.said = false, false })
			k.sayMissing(gk)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if k.isStarted(gk) {
		return k.review(ctx, gk, crd)
	}
	starting, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	err := k.start(starting, gk)
	switch {
	case meta.IsNoMatchError(err):
		return k.review(ctx, gk, crd)
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("starting to watch %s: %w", gk, err)
	}
	k.settle(gk, func(known *kind) {
		known.expected, known.started, known.said, known.served = false, true, false, stateOf(crd)
	})
	klog.FromContext(ctx).Info("Watching a kind", "kind", gk.String())
	return reconcile.Result{}, nil
}

// Watches tells whether the cache has what there is of a kind. It may be any.
func (k *Starter) Watches(gk schema.GroupKind) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.kinds[gk]
	return known != nil && known.started
}

func (k *Starter) isStarted(gk schema.GroupKind) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kinds[gk].started
}

func (k *Starter) settle(gk schema.GroupKind, change func(*kind)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(k.kinds[gk])
}

// sayMissing logs that there are no CRDs of some kinds, once until there are.
func (k *Starter) sayMissing(kinds ...schema.GroupKind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var names []string
	for _, gk := range kinds {
		if known := k.kinds[gk]; !known.missing {
			known.missing = true
			names = append(names, gk.String())
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		k.log.Info("Kinds are not served: what needs them is refused or does not work", "kinds", strings.Join(names, ","))
	}
}

// start adds all indexes of a kind before anything reads by them. What an earlier
// try has done is left as it is.
func (k *Starter) start(ctx context.Context, gk schema.GroupKind) error {
	sources := k.kinds[gk].sources
	for _, s := range sources {
		for name, index := range s.Indexes {
			if s.indexed[name] {
				continue
			}
			if err := k.cache.IndexField(ctx, s.Object, name, index); err != nil {
				return fmt.Errorf("adding index %s: %w", name, err)
			}
			s.indexed[name] = true
		}
	}
	for _, s := range sources {
		informer, err := k.cache.GetInformer(ctx, s.Object)
		if err != nil {
			return fmt.Errorf("starting the informer: %w", err)
		}
		if s.Started == nil || s.handled {
			continue
		}
		if err := s.Started(ctx, informer); err != nil {
			return fmt.Errorf("adding a handler: %w", err)
		}
		s.handled = true
	}
	return nil
}

// Synced returns an error while informers that admission needs are to be filled.
func (k *Starter) Synced() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.listed {
		return errors.New("CRDs are not listed yet")
	}
	var names []string
	for gk, known := range k.kinds {
		if known.needed && known.expected {
			names = append(names, gk.String())
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		return fmt.Errorf("informers have not synced yet: %s", strings.Join(names, ", "))
	}
	return nil
}
