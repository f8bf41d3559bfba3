package informers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator/capi"
)

const (
	machines = "vspheremachines.infrastructure.cluster.x-k8s.io"
	clusters = "clusters.cluster.x-k8s.io"
)

// plane is an API server with CRDs, and a cache of it: what the starter did with
// that, and what it logged.
type plane struct {
	informertest.FakeInformers
	crds map[string]*apiextensionsv1.CustomResourceDefinition
	// indexes are those that were added, and asked the kinds of which the informer was.
	indexes, asked []string
	// unserved are kinds that discovery does not show, and failing those whose index
	// or informer fails.
	unserved, failing map[string]bool
	log               strings.Builder
}

func (p *plane) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	crd, ok := p.crds[key.Name]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "customresourcedefinitions"}, key.Name)
	}
	obj.(*metav1.PartialObjectMetadata).ObjectMeta = crd.ObjectMeta
	return nil
}

func (p *plane) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	for _, crd := range p.crds {
		items := &list.(*metav1.PartialObjectMetadataList).Items
		*items = append(*items, metav1.PartialObjectMetadata{ObjectMeta: crd.ObjectMeta})
	}
	return nil
}

func (p *plane) IndexField(_ context.Context, _ client.Object, name string, _ client.IndexerFunc) error {
	if p.failing[name] {
		return errors.New("the index fails")
	}
	p.indexes = append(p.indexes, name)
	return nil
}

func (p *plane) GetInformer(_ context.Context, obj client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	kind := fmt.Sprintf("%T", obj)
	switch {
	case p.unserved[kind]:
		return nil, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Kind: kind}}
	case p.failing[kind]:
		return nil, errors.New("the informer does not sync")
	}
	p.asked = append(p.asked, kind)
	return nil, nil
}

// define adds a CRD that serves these versions.
func (p *plane) define(name string, versions ...string) {
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Generation: 1}}
	for _, version := range versions {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{Name: version, Served: true})
	}
	crd.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	p.crds[name] = crd
}

// stored reads the CRDs.
func (p *plane) stored(t *testing.T) client.Reader {
	t.Helper()
	var objects []client.Object
	for _, crd := range p.crds {
		objects = append(objects, crd)
	}
	scheme := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

// starter is one over the plane, with these sources.
func (p *plane) starter(t *testing.T, needed, others []Source) *Starter {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := capi.AddToScheme(scheme, nil); err != nil {
		t.Fatal(err)
	}
	k := &Starter{
		cache:    p,
		log:      funcr.New(func(_, args string) { fmt.Fprintln(&p.log, args) }, funcr.Options{}),
		live:     p.stored(t),
		choose:   func() (*runtime.Scheme, error) { return scheme, nil },
		outdated: make(chan error, 1),
	}
	if err := k.collect(scheme, needed, others); err != nil {
		t.Fatal(err)
	}
	return k
}

func newPlane(crds ...string) *plane {
	p := &plane{crds: map[string]*apiextensionsv1.CustomResourceDefinition{}, unserved: map[string]bool{}, failing: map[string]bool{}}
	for _, name := range crds {
		p.define(name, "v1beta2")
	}
	return p
}

// list runs the starter until the CRDs are listed.
func (k *Starter) list(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

func (k *Starter) reconcile(t *testing.T, crd string) (reconcile.Result, error) {
	t.Helper()
	if gk, ok := k.kindOf(crd); ok {
		k.expect(gk)
	}
	return k.look(t, crd)
}

// look reconciles without an event that shows the CRD.
func (k *Starter) look(t *testing.T, crd string) (reconcile.Result, error) {
	t.Helper()
	return k.Reconcile(klog.NewContext(t.Context(), k.log), reconcile.Request{NamespacedName: types.NamespacedName{Name: crd}})
}

// said are the lines about what is not served.
func (p *plane) said() []string {
	var lines []string
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, "not served") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func index(client.Object) []string { return nil }

func TestSourcesStayAsTheyWereHandedIn(t *testing.T) {
	p := newPlane(machines)
	calls := 0
	sources := []Source{{
		Object:  &capi.VSphereMachine{},
		Indexes: map[string]client.IndexerFunc{"a": index, "b": index},
		Started: func(context.Context, cache.Informer) error { calls++; return nil },
	}}
	k := p.starter(t, sources, nil)

	if _, err := k.reconcile(t, machines); err != nil {
		t.Fatal(err)
	}

	if names := slices.Sorted(maps.Keys(sources[0].Indexes)); !slices.Equal(names, []string{"a", "b"}) || sources[0].Started == nil {
		t.Errorf("the source has the indexes %v, and a handler: %t; want them as they were", names, sources[0].Started != nil)
	}
	// Another starter can be made of them.
	again := newPlane(machines)
	if _, err := again.starter(t, sources, nil).reconcile(t, machines); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(again.indexes); !slices.Equal(again.indexes, []string{"a", "b"}) || calls != 2 {
		t.Errorf("the second starter added the indexes %v, and the handler was added %d times in all; want both indexes, and 2", again.indexes, calls)
	}
}

func TestIndexesOfAKindAreAddedBeforeItsInformersStart(t *testing.T) {
	p := newPlane(machines)
	var order []string
	source := func(name string) Source {
		return Source{Object: &capi.VSphereMachine{}, Indexes: map[string]client.IndexerFunc{name: index}, Started: func(context.Context, cache.Informer) error {
			order = append(order, fmt.Sprintf("%s after %d indexes", name, len(p.indexes)))
			return nil
		}}
	}
	k := p.starter(t, []Source{source("a")}, []Source{source("b")})

	if _, err := k.reconcile(t, machines); err != nil {
		t.Fatal(err)
	}

	if want := []string{"b after 2 indexes", "a after 2 indexes"}; !slices.Equal(order, want) {
		t.Errorf("the handlers were added as %v, want %v", order, want)
	}
}

// What a try has done is not done by the next one: an index that is there is an error.
func TestEachPartOfASourceIsStartedOnceHoweverOftenItIsTried(t *testing.T) {
	p := newPlane(machines)
	calls := map[string]int{}
	failing := errors.New("the handler fails")
	source := func(name string) Source {
		return Source{Object: &capi.VSphereMachine{}, Indexes: map[string]client.IndexerFunc{name: index}, Started: func(context.Context, cache.Informer) error {
			if calls[name]++; name == "last" && failing != nil {
				return failing
			}
			return nil
		}}
	}
	k := p.starter(t, []Source{source("first"), source("last")}, nil)

	p.failing["last"] = true
	for range 2 {
		if _, err := k.reconcile(t, machines); err == nil {
			t.Fatal("an index that cannot be added is no error")
		}
	}
	p.failing = map[string]bool{"*capi.VSphereMachine": true}
	if _, err := k.reconcile(t, machines); err == nil {
		t.Fatal("an informer that does not sync is no error")
	}
	p.failing = nil
	if _, err := k.reconcile(t, machines); !errors.Is(err, failing) {
		t.Fatalf("got error %v, want that of the handler", err)
	}
	if err := k.Synced(); err == nil {
		t.Error("it has synced, although it could not be started")
	}
	failing = nil
	for range 2 {
		if _, err := k.reconcile(t, machines); err != nil {
			t.Fatal(err)
		}
	}

	if want := []string{"first", "last"}; !slices.Equal(p.indexes, want) {
		t.Errorf("the indexes %v were added, want %v", p.indexes, want)
	}
	if calls["first"] != 1 || calls["last"] != 2 {
		t.Errorf("the handlers were added %v times, want the first once, and the last until it was", calls)
	}
}

func TestSyncedWhenWhatAdmissionNeedsHasStarted(t *testing.T) {
	for name, test := range map[string]struct {
		crds    []string
		started []string
		// unlisted leaves the CRDs unread.
		unlisted bool
		want     string
	}{
		"CRDs not listed":                      {crds: []string{machines}, unlisted: true, want: "CRDs are not listed yet"},
		"nothing is served":                    {},
		"what is needed has not started":       {crds: []string{machines}, want: "informers have not synced yet: VSphereMachine.infrastructure.cluster.x-k8s.io"},
		"what is needed has started":           {crds: []string{machines}, started: []string{machines}},
		"what only controllers need has not":   {crds: []string{clusters}},
		"one of both":                          {crds: []string{clusters, machines}, started: []string{machines}},
		"what is needed is missing":            {crds: []string{clusters}, started: []string{clusters}},
		"CRDs that nobody reads do not matter": {crds: []string{"others.example.org"}, started: []string{"others.example.org"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(test.crds...)
			k := p.starter(t, []Source{{Object: &capi.VSphereMachine{}}}, []Source{{Object: &capi.Cluster{}}})
			if !test.unlisted {
				k.list(t)
			}
			for _, crd := range test.started {
				if _, err := k.reconcile(t, crd); err != nil {
					t.Fatal(err)
				}
			}

			got := ""
			if err := k.Synced(); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got error %q, want %q", got, test.want)
			}
		})
	}
}

func TestVersionThatIsNotServedIsSaidOnceAndNotWaitedFor(t *testing.T) {
	p := newPlane()
	p.define(machines, "v1alpha3")
	p.unserved["*capi.VSphereMachine"] = true
	k := p.starter(t, []Source{{Object: &capi.VSphereMachine{}}}, nil)
	k.list(t)

	for range 2 {
		if _, err := k.reconcile(t, machines); err != nil {
			t.Fatal(err)
		}
	}

	if err := k.Synced(); err != nil {
		t.Errorf("it is waited for: %v", err)
	}
	if lines := p.said(); len(lines) != 1 || !strings.Contains(lines[0], `"version"="v1beta2" "served"="v1alpha3"`) {
		t.Errorf("it says %q, want both versions in one line", lines)
	}
}

func TestKindsWithoutCRDAreSaidOnceAndNotWaitedFor(t *testing.T) {
	p := newPlane(machines)
	k := p.starter(t, []Source{{Object: &capi.VSphereMachine{}}, {Object: &capi.Cluster{}}}, []Source{{Object: &capi.VSphereVM{}}})

	k.list(t)
	if _, err := k.reconcile(t, machines); err != nil {
		t.Fatal(err)
	}
	if lines := p.said(); len(lines) != 1 || !strings.Contains(lines[0], `"Cluster.cluster.x-k8s.io,VSphereVM.infrastructure.cluster.x-k8s.io"`) {
		t.Errorf("it says %q, want both kinds that are missing in one line", lines)
	}
	if err := k.Synced(); err != nil {
		t.Errorf("they are waited for: %v", err)
	}

	// Neither another list nor an event about what is not there repeats it.
	k.list(t)
	if _, err := k.look(t, clusters); err != nil {
		t.Fatal(err)
	}
	if lines := p.said(); len(lines) != 1 {
		t.Errorf("it is said again: %q", lines)
	}

	// What came, and goes, is missing anew.
	p.define(clusters, "v1beta2")
	if _, err := k.reconcile(t, clusters); err != nil {
		t.Fatal(err)
	}
	delete(p.crds, clusters)
	for range 2 {
		if _, err := k.look(t, clusters); err != nil {
			t.Fatal(err)
		}
	}
	if lines := p.said(); len(lines) != 2 || !strings.Contains(lines[1], `"Cluster.cluster.x-k8s.io"`) {
		t.Errorf("it says %q, want that the kind is gone, once", lines)
	}
}

// An API server that has just started shows the versions of a group one after the other.
func TestVersionIsChosenByTheCRDWhereDiscoveryIsBehind(t *testing.T) {
	for name, test := range map[string]struct {
		shown, served []string
		want          string
	}{
		"all are shown":             {[]string{"v1beta2", "v1beta1"}, []string{"v1beta2", "v1beta1"}, "v1beta2"},
		"the newer is not shown":    {[]string{"v1beta1"}, []string{"v1beta2", "v1beta1"}, "v1beta2"},
		"none is shown":             {nil, []string{"v1beta1"}, "v1beta1"},
		"there is only the older":   {[]string{"v1beta1"}, []string{"v1beta1"}, "v1beta1"},
		"its CRD is not there":      {nil, nil, "v1beta2"},
		"it serves neither of them": {nil, []string{"v1alpha3"}, "v1beta2"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane()
			if test.served != nil {
				p.define(machines, test.served...)
			}
			shown := meta.NewDefaultRESTMapper(nil)
			for _, version := range test.shown {
				shown.Add(capi.VSphereMachineKind.WithVersion(version), meta.RESTScopeNamespace)
			}
			scheme := runtime.NewScheme()
			if err := capi.AddToScheme(scheme, NewDefined(t.Context(), shown, p.stored(t))); err != nil {
				t.Fatal(err)
			}
			if got := capi.InScheme(scheme, capi.VSphereMachineKind).Version; got != test.want {
				t.Errorf("chose %s, want %s", got, test.want)
			}
		})
	}
}

// What is written in a version that is not the stored one is converted there and back.
func TestProgramEndsWhenANewerVersionIsServedThatIsConverted(t *testing.T) {
	for name, converted := range map[string]bool{"converted": true, "of one form": false} {
		t.Run(name, func(t *testing.T) {
			p := newPlane()
			p.define(machines, "v1beta1")
			k := p.starter(t, []Source{{Object: &capi.VSphereMachine{}}}, nil)
			k.kinds[capi.VSphereMachineKind].version = "v1beta1"
			if _, err := k.reconcile(t, machines); err != nil {
				t.Fatal(err)
			}
			p.define(machines, "v1beta1", "v1beta2")
			crd := p.crds[machines]
			crd.Generation++
			if converted {
				crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter}
			}
			k.live = p.stored(t)
			if _, err := k.reconcile(t, machines); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-k.outdated:
				if !converted || !strings.Contains(err.Error(), "is served in version v1beta2 which is converted to v1beta1") {
					t.Errorf("it ends with %v", err)
				}
			default:
				if converted {
					t.Error("it goes on")
				}
			}
		})
	}
}
