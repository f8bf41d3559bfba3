package allocator

import (
	"context"
	"errors"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// freezing has an Allocator over these objects look for what is frozen, by this flag too.
func freezing(t *testing.T, flag string, objects ...client.Object) *Allocator {
	t.Helper()
	a := played(t, objects...)
	if err := corev1.AddToScheme(a.client.Scheme()); err != nil {
		t.Fatal(err)
	}
	a.Freezer = Freezer{Providers: a.providers, Live: a.live, Flag: flag}
	return a
}

// frozenPool is a pool that says so.
func frozenPool(name string) *ipamv1.IPPool {
	pool := poolOf(name, "10.0.0.20")
	kube.SetAnnotation(pool, ipam.FrozenAnnotation, "restore")
	return pool
}

// freeze marks the namespace of an Allocator, or takes the mark off.
func (a *Allocator) freeze(t *testing.T, frozen bool) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}
	if err := a.client.Delete(t.Context(), namespace); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	namespace = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}
	if frozen {
		kube.SetAnnotation(namespace, ipam.FrozenAnnotation, "restore")
	}
	if err := a.client.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsClaimedOfWhatIsFrozen(t *testing.T) {
	for name, a := range map[string]*Allocator{
		"pool":      freezing(t, "", frozenPool("one")),
		"all":       freezing(t, "restore", poolOf("one", "10.0.0.20")),
		"namespace": freezing(t, "", poolOf("one", "10.0.0.20")),
	} {
		t.Run(name, func(t *testing.T) {
			a.freeze(t, name == "namespace")

			attempt, err := a.Claim(t.Context(), wanting("one"))

			if !IsFrozen(err) {
				t.Fatalf("got %v, want a refusal because it is frozen", err)
			}
			if len(attempt.Bindings) > 0 {
				t.Errorf("got %v", attempt.Bindings)
			}
			claims := &ipamv1.IPClaimList{}
			if err := a.client.List(t.Context(), claims); err != nil || len(claims.Items) > 0 {
				t.Errorf("got the claims %v, %v; want none", claims.Items, err)
			}
		})
	}
}

// frozenServedPool is a pool that metal3 has looked at, and that says that it is frozen.
func frozenServedPool() *ipamv1.IPPool {
	pool := servedPool()
	kube.SetAnnotation(pool, ipam.FrozenAnnotation, "restore")
	return pool
}

func TestNothingIsTakenOfWhatIsFrozen(t *testing.T) {
	for name, a := range map[string]*Allocator{
		"pool":      freezing(t, "", frozenServedPool()),
		"all":       freezing(t, "restore", servedPool()),
		"namespace": freezing(t, "", servedPool()),
	} {
		t.Run(name, func(t *testing.T) {
			a.TakesAddresses = true
			count(t, a)
			a.freeze(t, name == "namespace")

			if attempt, err := a.Claim(t.Context(), requestOf("cp-0")); !IsFrozen(err) {
				t.Errorf("got %v, error %v; want a refusal because it is frozen", attempt.Bindings, err)
			}
			if there := onServer(t, a); len(there) > 0 {
				t.Errorf("%d addresses are there, want none", len(there))
			}
		})
	}
}

// It is given back when the freeze is over.
func TestAddressThatADeniedRequestTookStaysWhileItIsFrozen(t *testing.T) {
	for name, frozen := range map[string]bool{"frozen": true, "not": false} {
		t.Run(name, func(t *testing.T) {
			a := freezing(t, "", servedPool())
			a.TakesAddresses = true
			count(t, a)
			attempt, err := a.Claim(t.Context(), requestOf("cp-0"))
			if err != nil {
				t.Fatal(err)
			}
			a.freeze(t, frozen)

			if err := a.TakeBack(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}

			there := onServer(t, a)[attempt.Bindings[0].Address.Addr().String()]
			if stays := there != nil && ipam.IsTaken(there); stays != frozen {
				t.Errorf("the address is %+v, want that it stays: %t", there, frozen)
			}
		})
	}
}

// The cache does not know yet that the pool is frozen.
func TestAddressThatTurnsOutToBeUnfitStaysWhileItIsFrozen(t *testing.T) {
	first, _ := firstAndSecond(t)
	twin := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "one-" + dashed(first)}}
	twin.Spec.Address, twin.Spec.PoolRef.Name = first.String(), "one"
	a := freezing(t, "", frozenServedPool(), twin)
	a.client = behind{a.client, freezing(t, "", servedPool()).client}
	a.TakesAddresses = true
	count(t, a)

	if attempt, err := a.Claim(t.Context(), requestOf("cp-0")); !IsFrozen(err) {
		t.Errorf("got %v, error %v; want a refusal because it is frozen", attempt.Bindings, err)
	}

	if there := onServer(t, a); len(there) != 1 || there[first.String()] == nil {
		t.Errorf("the addresses %v are there, want %s alone", there, first)
	}
}

func TestAnotherPoolServesInPlaceOfOneThatIsFrozen(t *testing.T) {
	a := freezing(t, "", frozenPool("one"), poolOf("two", "10.0.0.20"))
	req := wanting("one")
	req.Asks[0].Choices = append(req.Asks[0].Choices, ipam.Choice{Pool: metal3.PoolNamed("two")})

	lines, err := a.Check(t.Context(), req)

	if err != nil || len(lines) != 1 || lines[0] != `would claim 1 address of IPPool "two" (11 free)` {
		t.Errorf("got %q, %v", lines, err)
	}
}

// The pool is what such an owner waits for.
func TestPoolThatIsFrozenIsWaitedFor(t *testing.T) {
	a := freezing(t, "", frozenPool("one"))
	_, err := a.Check(t.Context(), wanting("one"))
	refusal, _ := ipam.AsRefusal(err)
	if refusal == nil || len(refusal.Shortages) != 1 || refusal.Shortages[0].Pool != metal3.PoolNamed("one") {
		t.Errorf("got %+v, want that it waits for the pool", refusal)
	}
}

// It is reaped when the freeze is over.
func TestClaimOfADeniedRequestStaysWhileItIsFrozen(t *testing.T) {
	for name, frozen := range map[string]bool{"frozen": true, "not": false} {
		t.Run(name, func(t *testing.T) {
			a := freezing(t, "", poolOf("one", "10.0.0.20"))
			req := wanting("one")
			req.Stamp = ipam.Stamp{Time: time.Now(), Request: "request"}
			attempt := a.attempt(req)
			if err := a.plan(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}
			if _, err := a.ensureClaim(t.Context(), attempt.allocations[0]); err != nil {
				t.Fatal(err)
			}
			a.freeze(t, frozen)

			if err := a.TakeBack(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}

			err := a.client.Get(t.Context(), types.NamespacedName{Namespace: "ns", Name: "cp-0-0"}, &ipamv1.IPClaim{})
			if client.IgnoreNotFound(err) != nil || (err == nil) != frozen {
				t.Errorf("got error %v, want that the claim stays: %t", err, frozen)
			}
		})
	}
}

func TestStoredMachineGivesNothingUpWhileItIsFrozen(t *testing.T) {
	claim, address := boundClaim()
	for name, test := range map[string]struct {
		objects []client.Object
		giveUp  func(a *Allocator) error
	}{
		"a claim": {[]client.Object{claim}, func(a *Allocator) error {
			return a.GiveUp(context.Background(), ofStoredOne().Machine, "uid")
		}},
		"an address whose claim is gone": {nil, func(a *Allocator) error {
			return a.unprotectLeft(context.Background(), ofStoredOne())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a := freezing(t, "", append(test.objects, waitingMachine(), frozenPool("one"), address)...)

			if err := test.giveUp(a); !IsFrozen(err) {
				t.Errorf("got %v, want a refusal because it is frozen", err)
			}

			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !ipam.IsProtected(address) {
				t.Errorf("the address is %+v, %v; want it protected", address.ObjectMeta, err)
			}
		})
	}
}

// Whoever took the right away is not to hold up machines.
func TestPoolThatMayNotBeReadHoldsNothingUp(t *testing.T) {
	a := freezing(t, "", frozenPool("one"))
	a.Freezer.Live = interceptor.NewClient(a.client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if _, isPool := obj.(*ipamv1.IPPool); isPool {
				return apierrors.NewForbidden(schema.GroupResource{}, "", nil)
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})

	if freeze, err := a.Freezer.Claims(t.Context(), "ns", metal3.PoolNamed("one")); freeze != nil || err != nil {
		t.Errorf("got %v, %v", freeze, err)
	}
}

// Of a thousand claims that wait for the end of a freeze each asks every ten seconds.
func TestWhatTheCacheSaysIsFrozenIsNotReadLive(t *testing.T) {
	for name, frozen := range map[string]func(t *testing.T) *Allocator{
		"pool": func(t *testing.T) *Allocator { return freezing(t, "", frozenPool("one")) },
		"namespace": func(t *testing.T) *Allocator {
			a := freezing(t, "", poolOf("one", "10.0.0.20"))
			a.freeze(t, true)
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := frozen(t)
			a.Freezer.Cached, a.Freezer.Live = a.client, interceptor.NewClient(a.client.(client.WithWatch), interceptor.Funcs{
				Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
					t.Errorf("%s is read live", key)
					return errors.New("it is not to be read")
				},
			})

			if freeze, err := a.Freezer.Claims(t.Context(), "ns", metal3.PoolNamed("one")); freeze == nil || err != nil {
				t.Errorf("got %v, %v; want that it is frozen", freeze, err)
			}
		})
	}
}

func TestWhatTheCacheDoesNotKnowToBeFrozenIsReadLive(t *testing.T) {
	a := freezing(t, "", frozenPool("one"))
	a.Freezer.Cached = freezing(t, "", poolOf("one", "10.0.0.20")).client

	if freeze, err := a.Freezer.Claims(t.Context(), "ns", metal3.PoolNamed("one")); freeze == nil || err != nil {
		t.Errorf("got %v, %v; want that it is frozen", freeze, err)
	}
}
