package ledger_test

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	metal3v1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/ledger"
)

var providers = ipam.NewProviders(contract.Provider{}, metal3.Provider{})

// informer is one kind: what there is of it, and what its informer knows and has told.
type informer struct {
	cache.Informer
	there, known map[types.NamespacedName]client.Object
	handler      toolscache.ResourceEventHandler
	unsynced     bool
}

type registration struct {
	toolscache.ResourceEventHandlerRegistration
	*informer
}

func (r registration) HasSynced() bool { return !r.unsynced }

func (i *informer) AddEventHandler(handler toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	i.handler = handler
	for _, obj := range i.known {
		handler.OnAdd(obj, true)
	}
	return registration{informer: i}, nil
}

// put has an object be there, seen or not.
func (i *informer) put(obj client.Object) { i.there[client.ObjectKeyFromObject(obj)] = obj }

func (i *informer) drop(key types.NamespacedName) { delete(i.there, key) }

// see tells of one object, as a watch does.
func (i *informer) see(key types.NamespacedName) {
	now, exists := i.there[key]
	before, known := i.known[key]
	switch {
	case exists && known:
		i.known[key] = now
		i.handler.OnUpdate(before, now)
	case exists:
		i.known[key] = now
		i.handler.OnAdd(now, false)
	case known:
		delete(i.known, key)
		i.handler.OnDelete(before)
	}
}

// list tells of everything that went unseen, as a new list does: of what is gone with a
// tombstone, which may not even have an object.
func (i *informer) list(random *rand.Rand) {
	for key, before := range i.known {
		if _, exists := i.there[key]; exists {
			continue
		}
		delete(i.known, key)
		tombstone := toolscache.DeletedFinalStateUnknown{Key: key.String(), Obj: before}
		if random.IntN(2) == 0 {
			tombstone.Obj = nil
		}
		i.handler.OnDelete(tombstone)
	}
	for key := range i.there {
		i.see(key)
	}
}

// world has what the ledger follows, and is a cache of it.
type world struct {
	client.Client
	t      testing.TB
	ledger *ledger.Ledger
	// By the kinds of providers; metal3 first.
	addresses, claims  map[string]*informer
	machines, clusters *informer
	pools              []client.Object
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, ledger: ledger.New(providers), addresses: map[string]*informer{}, claims: map[string]*informer{}}
	of := func() *informer {
		return &informer{there: map[types.NamespacedName]client.Object{}, known: map[types.NamespacedName]client.Object{}}
	}
	w.machines, w.clusters = of(), of()
	for _, p := range providers {
		w.addresses[p.Name()], w.claims[p.Name()] = of(), of()
	}
	return w
}

// begin starts the sources of the ledger, some or all.
func (w *world) begin(which func(informers.Source) bool) {
	w.t.Helper()
	for _, s := range w.ledger.Sources() {
		if !which(s) {
			continue
		}
		if err := s.Started(w.t.Context(), w.of(s.Object)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func all(informers.Source) bool { return true }

func (w *world) of(obj client.Object) *informer {
	switch obj.(type) {
	case *metal3v1.IPAddress:
		return w.addresses["metal3"]
	case *metal3v1.IPClaim:
		return w.claims["metal3"]
	case *ipamv1.IPAddress:
		return w.addresses["contract"]
	case *ipamv1.IPAddressClaim:
		return w.claims["contract"]
	case *capi.VSphereMachine:
		return w.machines
	case *capi.VSphereCluster:
		return w.clusters
	}
	w.t.Fatalf("no informer is of a %T", obj)
	return nil
}

// add has objects be there, and be seen.
func (w *world) add(objects ...client.Object) {
	for _, obj := range objects {
		w.of(obj).put(obj)
		w.of(obj).see(client.ObjectKeyFromObject(obj))
	}
}

// remove has them be gone, and be seen to be.
func (w *world) remove(objects ...client.Object) {
	for _, obj := range objects {
		w.of(obj).drop(client.ObjectKeyFromObject(obj))
		w.of(obj).see(client.ObjectKeyFromObject(obj))
	}
}

// Get implements client.Reader for pools.
func (w *world) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	for _, pool := range w.pools {
		found, is := pool.(*metal3v1.IPPool)
		if into, asked := obj.(*metal3v1.IPPool); is && asked && client.ObjectKeyFromObject(pool) == key {
			found.DeepCopyInto(into)
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

// List implements client.Reader for addresses.
func (w *world) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	options := (&client.ListOptions{}).ApplyOptions(opts)
	in := func(obj client.Object) bool {
		return options.Namespace == "" || obj.GetNamespace() == options.Namespace
	}
	switch list := list.(type) {
	case *metal3v1.IPAddressList:
		for _, obj := range w.addresses["metal3"].known {
			if in(obj) {
				list.Items = append(list.Items, *obj.(*metal3v1.IPAddress))
			}
		}
	case *ipamv1.IPAddressList:
		for _, obj := range w.addresses["contract"].known {
			if in(obj) {
				list.Items = append(list.Items, *obj.(*ipamv1.IPAddress))
			}
		}
	default:
		w.t.Fatalf("a %T is listed", list)
	}
	return nil
}

// used is the account of a pool, which must be known.
func (w *world) used(namespace string, pool ipam.PoolReference) ledger.View {
	w.t.Helper()
	view, known := w.ledger.Used(namespace, pool)
	if !known {
		w.t.Fatalf("the addresses of %s are not counted", pool)
	}
	return view
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// named is the metadata of an object in namespace "ns".
func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }

// own is an address of an IPPool, handed to an IPClaim, as metal3 names it.
func own(pool, ip string) *metal3v1.IPAddress {
	a := &metal3v1.IPAddress{ObjectMeta: named(pool + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(ip))}
	a.Spec.Pool.Name, a.Spec.Claim.Name, a.Spec.Address = pool, "for-"+ip, metal3v1.IPAddressStr(ip)
	return a
}

// other is an address of the contract, of a pool of any kind.
func other(pool ipam.PoolReference, name, ip string) *ipamv1.IPAddress {
	a := &ipamv1.IPAddress{ObjectMeta: named(name)}
	a.Spec.PoolRef = ipamv1.IPPoolReference{APIGroup: pool.APIGroup, Kind: pool.Kind, Name: pool.Name}
	a.Spec.ClaimRef.Name, a.Spec.Address = name, ip
	return a
}
