package allocator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/ledger"
)

// prompt is an API server, with caches that are never behind and have the indexes that the
// manager's have, and metal3, which answers a claim at once. What a create takes on it is
// our own share.
type prompt struct {
	client.Client
	scheme *runtime.Scheme
	kinds  map[reflect.Type]*promptKind
	made   int
}

// promptKind is what there is of one kind.
type promptKind struct {
	toolscache.Indexer
	handlers []toolscache.ResourceEventHandler
}

// promptInformer adds a handler to a kind.
type promptInformer struct {
	cache.Informer
	*promptKind
}

func (i promptInformer) AddEventHandler(handler toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	i.handlers = append(i.handlers, handler)
	return registration{}, nil
}

func newPrompt(t testing.TB) *prompt {
	t.Helper()
	p := &prompt{scheme: runtime.NewScheme(), kinds: map[reflect.Type]*promptKind{}}
	if err := errors.Join(ipamv1.AddToScheme(p.scheme), capi.AddToScheme(p.scheme, nil), capiipamv1.AddToScheme(p.scheme)); err != nil {
		t.Fatal(err)
	}
	return p
}

// start starts sources.
func (p *prompt) start(t testing.TB, sources []informers.Source) {
	t.Helper()
	for _, s := range sources {
		kind := p.kindOf(s.Object)
		for name, index := range s.Indexes {
			indexer := func(obj any) ([]string, error) {
				var values []string
				for _, value := range index(obj.(client.Object)) {
					values = append(values, obj.(client.Object).GetNamespace()+"/"+value, "/"+value)
				}
				return values, nil
			}
			if err := kind.AddIndexers(toolscache.Indexers{name: indexer}); err != nil {
				t.Fatal(err)
			}
		}
		if s.Started != nil {
			if err := s.Started(t.Context(), promptInformer{promptKind: kind}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (p *prompt) kindOf(obj client.Object) *promptKind {
	of := reflect.TypeOf(obj)
	if p.kinds[of] == nil {
		p.kinds[of] = &promptKind{Indexer: toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{
			toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc,
		})}
	}
	return p.kinds[of]
}

// put stores an object, and tells of it.
func (p *prompt) put(obj client.Object) error {
	kind, stored := p.kindOf(obj), obj.DeepCopyObject().(client.Object)
	before, exists, err := kind.Get(stored)
	if err != nil {
		return err
	}
	if err := kind.Update(stored); err != nil {
		return err
	}
	for _, handler := range kind.handlers {
		if exists {
			handler.OnUpdate(before, stored)
		} else {
			handler.OnAdd(stored, false)
		}
	}
	return nil
}

func (p *prompt) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	found, exists, err := p.kindOf(obj).GetByKey(key.String())
	if err != nil {
		return err
	}
	if !exists {
		return apierrors.NewNotFound(schema.GroupResource{Resource: fmt.Sprintf("%T", obj)}, key.Name)
	}
	reflect.ValueOf(obj).Elem().Set(reflect.ValueOf(found.(client.Object).DeepCopyObject()).Elem())
	return nil
}

func (p *prompt) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	options := (&client.ListOptions{}).ApplyOptions(opts)
	gvk, err := apiutil.GVKForObject(list, p.scheme)
	if err != nil {
		return err
	}
	empty, err := p.scheme.New(gvk.GroupVersion().WithKind(strings.TrimSuffix(gvk.Kind, "List")))
	if err != nil {
		return err
	}
	index, value := toolscache.NamespaceIndex, options.Namespace
	if options.FieldSelector != nil {
		required := options.FieldSelector.Requirements()[0]
		index, value = required.Field, options.Namespace+"/"+required.Value
	}
	found, err := p.kindOf(empty.(client.Object)).ByIndex(index, value)
	if err != nil {
		return err
	}
	objects := make([]runtime.Object, len(found))
	for i := range found {
		objects[i] = found[i].(runtime.Object)
	}
	return meta.SetList(list, objects)
}

// Create implements client.Client. A claim is bound when it is made.
func (p *prompt) Create(_ context.Context, obj client.Object, _ ...client.CreateOption) error {
	p.made++
	obj.SetUID(types.UID(fmt.Sprint(p.made)))
	obj.SetCreationTimestamp(metav1.Now())
	claim, isClaim := obj.(*ipamv1.IPClaim)
	if !isClaim {
		return p.put(obj)
	}
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Namespace: claim.Namespace, Name: "pool-" + claim.Name, UID: "address",
		OwnerReferences: []metav1.OwnerReference{{Kind: "IPClaim", Name: claim.Name, UID: claim.UID}},
	}}
	address.Spec = ipamv1.IPAddressSpec{Pool: claim.Spec.Pool, Claim: corev1.ObjectReference{Name: claim.Name}, Address: "10.255.255.1", Prefix: 8}
	bound := claim.DeepCopy()
	bound.Status.Address = &corev1.ObjectReference{Name: address.Name}
	return errors.Join(p.put(address), p.put(bound))
}

func (p *prompt) Patch(_ context.Context, obj client.Object, _ client.Patch, _ ...client.PatchOption) error {
	return p.put(obj)
}

func (p *prompt) Delete(_ context.Context, obj client.Object, _ ...client.DeleteOption) error {
	kind := p.kindOf(obj)
	if err := kind.Delete(obj); err != nil {
		return err
	}
	for _, handler := range kind.handlers {
		handler.OnDelete(obj)
	}
	return nil
}

func (p *prompt) Scheme() *runtime.Scheme { return p.scheme }

func (p *prompt) GroupVersionKindFor(obj runtime.Object) (schema.GroupVersionKind, error) {
	return apiutil.GVKForObject(obj, p.scheme)
}

// fill has so many machines be there, each with a claim that it has adopted, and an address.
func (p *prompt) fill(t testing.TB, count int) {
	t.Helper()
	ip := netip.MustParseAddr("10.0.0.1")
	for i := range count {
		name := fmt.Sprintf("md-%d", i)
		machine := storedMachine(name)
		machine.Spec.Network.Devices = []capi.Device{{IPAddrs: []string{ip.String() + "/8"}}}
		claim := claimNamed(name+"-0", "pool")
		claim.Annotations, claim.OwnerReferences = nil, []metav1.OwnerReference{{Kind: "VSphereMachine", Name: name, UID: types.UID(name)}}
		address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "pool-" + strings.ReplaceAll(ip.String(), ".", "-"), Finalizers: []string{ipam.InUseFinalizer},
			Annotations: map[string]string{ipam.MachineNameAnnotation: name, ipam.MachineUIDAnnotation: name},
		}}
		address.Spec = ipamv1.IPAddressSpec{
			Pool: corev1.ObjectReference{Name: "pool"}, Claim: corev1.ObjectReference{Name: claim.Name}, Address: ipamv1.IPAddressStr(ip.String()), Prefix: 8,
		}
		if err := errors.Join(p.put(machine), p.put(claim), p.put(address)); err != nil {
			t.Fatal(err)
		}
		ip = ip.Next()
	}
}

// create is one create of a machine, and the end of it.
func (p *prompt) create(t testing.TB, a *Allocator) {
	req := wanting("pool")
	req.Owner, req.Stamp = machineSet, ipam.Stamp{Time: time.Now(), Request: "request"}
	attempt, err := a.Claim(klog.NewContext(t.Context(), logr.Discard()), req)
	if err != nil || len(attempt.Bindings) != 1 {
		t.Fatalf("got error %v", err)
	}
	a.promised.drop(attempt.Bindings[0].Address.Addr(), keyOf(req.Machine))
	claim, address := claimNamed("cp-0-0", "pool"), &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool-cp-0-0"}}
	if err := errors.Join(p.Delete(t.Context(), claim), p.Delete(t.Context(), address)); err != nil {
		t.Fatal(err)
	}
}

// filledWith is an Allocator, and so many machines with addresses of one pool.
func filledWith(t testing.TB, count int, counted bool) (*prompt, *Allocator) {
	p := newPrompt(t)
	providers := ipam.NewProviders(contract.Provider{}, metal3.Provider{})
	counts := ledger.New(providers)
	a := New(providers, p, p)
	if counted {
		a = New(providers, counts.Client(p), p)
		a.Counts = counts
		p.start(t, counts.Sources())
	}
	p.start(t, a.Sources())
	start, end := ipamv1.IPAddressStr("10.0.0.1"), ipamv1.IPAddressStr("10.255.255.254")
	pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
	pool.Spec.Pools, pool.Spec.Prefix = []ipamv1.Pool{{Start: &start, End: &end}}, 8
	if err := p.put(pool); err != nil {
		t.Fatal(err)
	}
	p.fill(t, count)
	return p, a
}

func BenchmarkClaim(b *testing.B) {
	for _, count := range []int{10, 1000, 10_000} {
		for way, counted := range map[string]bool{"counted": true, "listed": false} {
			b.Run(fmt.Sprintf("%d-%s", count, way), func(b *testing.B) {
				p, a := filledWith(b, count, counted)
				for b.Loop() {
					p.create(b, a)
				}
			})
		}
	}
}

// How long it takes cannot be measured reliably here; but what is listed takes memory.
func TestCreateTakesNoMoreInAPoolOfManyAddresses(t *testing.T) {
	bytes := func(count int) uint64 {
		p, a := filledWith(t, count, true)
		p.create(t, a)
		const creates = 20
		var before, after goruntime.MemStats
		goruntime.ReadMemStats(&before)
		for range creates {
			p.create(t, a)
		}
		goruntime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / creates
	}
	// A list of so many takes fifty times as much as all the rest.
	const few, many = 10, 5000
	if with, without := bytes(many), bytes(few); with > 2*without {
		t.Errorf("a create takes %d bytes beside %d machines, and %d beside %d", with, many, without, few)
	}
}
