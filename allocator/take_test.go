package allocator

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// behind reads from a cache that is behind the server to which it writes.
type behind struct {
	client.Client
	cache client.Reader
}

func (b behind) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	return b.cache.Get(ctx, key, obj, opts...)
}

func (b behind) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return b.cache.List(ctx, list, opts...)
}

// servedPool is a pool of 10.0.0.10 and 10.0.0.11 that metal3 has looked at.
func servedPool() *ipamv1.IPPool {
	pool := poolOf("one", "10.0.0.11")
	pool.UID, pool.Generation, pool.Finalizers = "pool-uid", 1, []string{ipamv1.IPPoolFinalizer}
	pool.Spec.NamePrefix, pool.Spec.Prefix = "one", 24
	pool.Status.LastUpdated = new(metav1.Now())
	return pool
}

// taking is an Allocator that takes addresses, whose cache has the pool alone, and whose
// server what else there is.
func taking(t *testing.T, pool *ipamv1.IPPool, others ...client.Object) *Allocator {
	t.Helper()
	a := played(t, append(others, pool)...)
	a.client = behind{a.client, played(t, servedPool()).client}
	a.TakesAddresses = true
	count(t, a)
	return a
}

func requestOf(machine string) Request {
	req := wanting("one")
	req.Machine.Name = machine
	req.Stamp = ipam.Stamp{Time: time.Now(), Request: types.UID("request of " + machine)}
	return req
}

// first is the address that is tried first for the machine cp-0, and second the other one.
func firstAndSecond(t *testing.T) (first, second netip.Addr) {
	t.Helper()
	first, second = netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("10.0.0.11")
	if got := taken(t, taking(t, servedPool()), "cp-0"); got != first {
		return second, first
	}
	return first, second
}

// taken is the address that a machine is given.
func taken(t *testing.T, a *Allocator, machine string) netip.Addr {
	t.Helper()
	attempt, err := a.Claim(t.Context(), requestOf(machine))
	if err != nil {
		t.Fatal(err)
	}
	return attempt.Bindings[0].Address.Addr()
}

// onServer are the addresses that the server has, by what they are.
func onServer(t *testing.T, a *Allocator) map[string]*ipamv1.IPAddress {
	t.Helper()
	list := &ipamv1.IPAddressList{}
	if err := a.live.List(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	found := map[string]*ipamv1.IPAddress{}
	for i := range list.Items {
		found[string(list.Items[i].Spec.Address)] = &list.Items[i]
	}
	return found
}

// ofMachine is an address as it was taken for a machine by another replica.
func ofMachine(machine string, ip netip.Addr, changes ...func(*ipamv1.IPAddress)) *ipamv1.IPAddress {
	pool := ipam.Pool{Object: servedPool(), Reference: metal3.PoolNamed("one")}
	address := &ipamv1.IPAddress{}
	address.Namespace, address.Name = "ns", "one-"+dashed(ip)
	address.Spec.Address, address.Spec.Prefix = ipamv1.IPAddressStr(ip.String()), 24
	address.Spec.Pool.Name, address.Spec.Claim.Name = pool.GetName(), ipam.ClaimName(machine, ipam.Slot{})
	ipam.Mark(address, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: machine}})
	ipam.Protect(address, machine)
	ipam.Use(address, ipam.Stamp{Time: time.Now(), Request: "another"})
	address.Annotations[ipam.RequestedByAnnotation] = ipam.RequestedBy(ipam.Owner{})
	for _, change := range changes {
		change(address)
	}
	return address
}

func dashed(ip netip.Addr) string {
	text := []byte(ip.String())
	for i := range text {
		if text[i] == '.' {
			text[i] = '-'
		}
	}
	return string(text)
}

func TestAddressIsTakenWithOneWrite(t *testing.T) {
	a := taking(t, servedPool())
	ip := taken(t, a, "cp-0")
	obj := onServer(t, a)[ip.String()]
	if obj == nil || !ipam.IsTaken(obj) || ipam.MachineOf(obj) != "cp-0" || obj.Spec.Claim.Name != "cp-0-0" {
		t.Errorf("got %+v", obj)
	}
	err := a.live.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "cp-0-0"}, &ipamv1.IPClaim{})
	if client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("looking for a claim: got error %v, want that there is none", err)
	}
}

// The cache has a pool from before.
func TestAddressOfAPoolThatHasChangedIsGivenBack(t *testing.T) {
	for name, change := range map[string]func(*ipamv1.IPPool){
		"its ranges are others": func(p *ipamv1.IPPool) { p.Generation = 2 },
		"it is another one":     func(p *ipamv1.IPPool) { p.UID = "other-uid" },
		"it is being deleted":   func(p *ipamv1.IPPool) { p.DeletionTimestamp = new(metav1.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			pool := servedPool()
			change(pool)
			a := taking(t, pool)
			// Nobody binds the claim that is made then.
			ctx, cancel := context.WithTimeout(t.Context(), 2*leastBindingTime)
			defer cancel()
			attempt, err := a.Claim(ctx, requestOf("cp-0"))
			if err == nil {
				t.Errorf("it was given %v", attempt.Bindings)
			}
			if left := onServer(t, a); len(left) > 0 {
				t.Errorf("%d addresses are left", len(left))
			}
		})
	}
}

func TestAddressThatMetal3GaveToItsOtherAPIIsGivenBackAndAnotherTaken(t *testing.T) {
	first, second := firstAndSecond(t)
	twin := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "one-" + dashed(first)}}
	twin.Spec.Address, twin.Spec.PoolRef.Name = first.String(), "one"
	a := taking(t, servedPool(), twin)
	if got := taken(t, a, "cp-0"); got != second {
		t.Errorf("got %s, want %s", got, second)
	}
	if left := onServer(t, a); len(left) != 1 {
		t.Errorf("%d addresses are there, want the one", len(left))
	}
}

func TestAddressThatAnotherHasTakenIsLeftToIt(t *testing.T) {
	first, second := firstAndSecond(t)
	a := taking(t, servedPool(), ofMachine("cp-9", first))
	if got := taken(t, a, "cp-0"); got != second {
		t.Errorf("got %s, want %s", got, second)
	}
	if there := onServer(t, a)[first.String()]; there == nil || ipam.MachineOf(there) != "cp-9" {
		t.Errorf("the other's is %+v", there)
	}
}

func TestAddressThatAnotherReplicaHasTakenForTheMachineIsUsedAgain(t *testing.T) {
	first, _ := firstAndSecond(t)
	a := taking(t, servedPool(), ofMachine("cp-0", first))
	if got := taken(t, a, "cp-0"); got != first {
		t.Errorf("got %s, want %s", got, first)
	}
	if stamp, want := onServer(t, a)[first.String()].Annotations[ipam.LastUsedAnnotation], requestOf("cp-0").Stamp.Again(); stamp[len(stamp)-len(want.Request):] != string(want.Request) {
		t.Errorf("its stamp is %q, want one of %q", stamp, want.Request)
	}
}

func TestAddressOfAnEarlierMachineOfTheNameIsNotUsedAgain(t *testing.T) {
	first, _ := firstAndSecond(t)
	for name, test := range map[string]struct {
		change func(*ipamv1.IPAddress)
		reason ipam.Reason
	}{
		"a machine had it":      {func(i *ipamv1.IPAddress) { ipam.HandOver(i); i.Annotations[ipam.MachineUIDAnnotation] = "earlier" }, ipam.ClaimTerminating},
		"it is not protected":   {func(i *ipamv1.IPAddress) { ipam.Unprotect(i) }, ipam.ClaimTerminating},
		"it is being deleted":   {func(i *ipamv1.IPAddress) { i.DeletionTimestamp = new(metav1.Now()) }, ipam.ClaimTerminating},
		"it cools down":         {func(i *ipamv1.IPAddress) { i.Annotations[ipam.ReleasedAtAnnotation] = "2026-01-01T00:00:00Z" }, ipam.CoolingDown},
		"it is of another pool": {func(i *ipamv1.IPAddress) { i.Spec.Pool.Name = "other" }, ipam.ClaimTerminating},
	} {
		t.Run(name, func(t *testing.T) {
			a := taking(t, servedPool(), ofMachine("cp-0", first, test.change))
			if _, err := a.Claim(t.Context(), requestOf("cp-0")); !isRefusedFor(err, test.reason) {
				t.Errorf("got error %v, want a refusal for %s", err, test.reason)
			}
		})
	}
	t.Run("a machine of the name exists", func(t *testing.T) {
		a := taking(t, servedPool(), storedMachine("cp-0"), ofMachine("cp-0", first))
		if _, err := a.Claim(t.Context(), requestOf("cp-0")); !errors.Is(err, ErrMachineExists) {
			t.Errorf("got error %v, want that the machine exists", err)
		}
	})
}

func TestDeniedRequestGivesBackTheAddressThatItTook(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(*testing.T, *Allocator, *ipamv1.IPAddress)
		left      int
	}{
		"and leaves nothing": {func(*testing.T, *Allocator, *ipamv1.IPAddress) {}, 0},
		"unless another one uses it by now": {func(t *testing.T, a *Allocator, address *ipamv1.IPAddress) {
			ipam.Use(address, requestOf("cp-0").Stamp.Again())
			if err := a.client.Update(t.Context(), address); err != nil {
				t.Fatal(err)
			}
		}, 1},
		"unless its machine exists": {func(t *testing.T, a *Allocator, _ *ipamv1.IPAddress) {
			if err := a.client.Create(t.Context(), storedMachine("cp-0")); err != nil {
				t.Fatal(err)
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			a := taking(t, servedPool())
			attempt, err := a.Claim(t.Context(), requestOf("cp-0"))
			if err != nil {
				t.Fatal(err)
			}
			test.meanwhile(t, a, onServer(t, a)[attempt.Bindings[0].Address.Addr().String()])
			if err := a.TakeBack(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}
			if left := onServer(t, a); len(left) != test.left {
				t.Errorf("%d addresses are left, want %d", len(left), test.left)
			}
		})
	}
}

func TestOwnerWhoseMachineWasNotStoredIsDeniedTheNext(t *testing.T) {
	bothWays(t, func(t *testing.T, prepare func(*testing.T, *Allocator)) {
		owner := ipam.Owner{Kind: "MachineSet", Name: "md", UID: "md-uid"}
		earlier := ofMachine("cp-9", netip.MustParseAddr("10.0.0.10"), func(i *ipamv1.IPAddress) {
			i.Annotations[ipam.RequestedByAnnotation] = ipam.RequestedBy(owner)
			ipam.Use(i, ipam.Stamp{Time: time.Now().Add(-time.Hour)})
		})
		for name, test := range map[string]struct {
			others  []client.Object
			refused bool
		}{
			"it was not stored": {nil, true},
			"it was":            {[]client.Object{storedMachine("cp-9")}, false},
		} {
			t.Run(name, func(t *testing.T) {
				a := played(t, append(test.others, servedPool(), earlier.DeepCopy())...)
				prepare(t, a)
				req := requestOf("cp-0")
				req.Owner = owner
				err := a.checkEarlier(t.Context(), req, a.attempt(req))
				if refused := isRefusedFor(err, ipam.MachineNotStored); refused != test.refused || err != nil && !refused {
					t.Errorf("got error %v, want that it is refused: %t", err, test.refused)
				}
			})
		}
	})
}

// Whoever was answered with it before has not been stored, and it was given back.
func TestAddressThatWasGivenBackIsTakenForAnotherAtOnce(t *testing.T) {
	first, second := firstAndSecond(t)
	a := taking(t, servedPool(), ofMachine("cp-9", second))
	if got := taken(t, a, "cp-1"); got != first {
		t.Fatalf("got %s, want %s", got, first)
	}
	given := onServer(t, a)[first.String()]
	if err := GiveBack(t.Context(), a.client, metal3.Provider{}, metal3.Provider{}.ReadAddress(given)); err != nil {
		t.Fatal(err)
	}
	a.inFlight.end(client.ObjectKeyFromObject(given))
	if got := taken(t, a, "cp-0"); got != first {
		t.Errorf("got %s, want %s", got, first)
	}
}

func TestRequestsForOneNameAtOnceComeToOneAddress(t *testing.T) {
	a := taking(t, servedPool())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := a.Claim(t.Context(), requestOf("cp-0")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if there := onServer(t, a); len(there) != 1 {
		t.Errorf("there are %d addresses, want one", len(there))
	}
}
