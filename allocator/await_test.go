package allocator

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// play is a request that waits for its claim on a metal3 pool, and a provider
// whose every step a test makes. It runs in a bubble of synctest, in which time
// passes only while everybody waits.
type play struct {
	*testing.T
	*Allocator
	claim *ipamv1.IPClaim
	pool  *ipamv1.IPPool
	done  chan struct{}

	binding ipam.Binding
	err     error
}

// waiting runs a test beside a request that waits for an answer, for 10 seconds.
func waiting(t *testing.T, test func(p *play)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		first, last := ipamv1.IPAddressStr("10.0.0.10"), ipamv1.IPAddressStr("10.0.0.19")
		p := &play{T: t, done: make(chan struct{})}
		p.pool = &ipamv1.IPPool{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"},
			Spec:       ipamv1.IPPoolSpec{Pools: []ipamv1.Pool{{Start: &first, End: &last}}},
		}
		p.claim = p.claimWith("claim-1")
		p.Allocator = played(t, p.pool, p.claim)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		go func() {
			defer close(p.done)
			defer cancel()
			p.binding, p.err = p.request(ctx)
		}()
		synctest.Wait()
		test(p)
		<-p.done
	})
}

// request is the part of a request in which it waits.
func (p *play) request(ctx context.Context) (ipam.Binding, error) {
	machine := ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}
	attempt := p.attempt(Request{Machine: machine, Asks: []ipam.Ask{askOf(metal3.PoolNamed("pool"))}})
	if err := p.plan(ctx, attempt); err != nil {
		return ipam.Binding{}, err
	}
	al := attempt.allocations[0]
	al.use(p.claim.Name)
	return p.await(ctx, al, metal3.Provider{}.ReadClaim(p.claim.DeepCopy()))
}

// played is an Allocator whose API server and caches are one, and which learns of
// changes only from the test.
func played(t *testing.T, objects ...client.Object) *Allocator {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(ipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, nil), capiipamv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...)
	for _, provider := range []ipam.Provider{metal3.Provider{}, contract.Provider{}} {
		for name, index := range indexAddresses(provider) {
			builder.WithIndex(ipam.EmptyAddress(provider), name, index)
		}
		for name, index := range indexClaims(provider) {
			builder.WithIndex(ipam.EmptyClaim(provider), name, index)
		}
	}
	for _, source := range userSources() {
		for name, index := range source.Indexes {
			builder.WithIndex(source.Object, name, index)
		}
	}
	c := builder.Build()
	return New(ipam.NewProviders(contract.Provider{}, metal3.Provider{}), c, c)
}

func (p *play) claimWith(uid types.UID) *ipamv1.IPClaim {
	return &ipamv1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: uid},
		Spec:       ipamv1.IPClaimSpec{Pool: corev1.ObjectReference{Name: "pool", Namespace: "ns"}},
	}
}

// makesAddress makes an address that answers the claim. The claim does not name it.
func (p *play) makesAddress(name, ip string) {
	p.Helper()
	address := &ipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(name),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: ipamv1.GroupVersion.String(), Kind: "IPClaim", Name: p.claim.Name, UID: p.claim.UID}},
		},
		Spec: ipamv1.IPAddressSpec{
			Address: ipamv1.IPAddressStr(ip), Prefix: 24,
			Claim: corev1.ObjectReference{Name: p.claim.Name}, Pool: corev1.ObjectReference{Name: "pool"},
		},
	}
	if err := p.client.Create(p.Context(), address); err != nil {
		p.Fatal(err)
	}
	p.hears()
}

// namesAddress has the claim name an address.
func (p *play) namesAddress(name string) {
	p.Helper()
	p.changeClaim(func(claim *ipamv1.IPClaim) { claim.Status.Address = &corev1.ObjectReference{Name: name} })
}

func (p *play) changeClaim(change func(*ipamv1.IPClaim)) {
	p.Helper()
	if err := p.client.Get(p.Context(), client.ObjectKeyFromObject(p.claim), p.claim); err != nil {
		p.Fatal(err)
	}
	change(p.claim)
	if err := p.client.Update(p.Context(), p.claim); err != nil {
		p.Fatal(err)
	}
	p.hears()
}

// hears has the watch tell the request of a change, and lets it act.
func (p *play) hears() {
	p.bound.notify(client.ObjectKeyFromObject(p.claim))
	synctest.Wait()
}

func (p *play) isAnswered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *play) wantAddress(ip string) {
	p.Helper()
	<-p.done
	if p.err != nil || p.binding.Address.Addr().String() != ip {
		p.Fatalf("got %s and error %v, want %s", p.binding.Address, p.err, ip)
	}
	address := &ipamv1.IPAddress{}
	list := &ipamv1.IPAddressList{}
	if err := p.client.List(p.Context(), list); err != nil {
		p.Fatal(err)
	}
	for i := range list.Items {
		if string(list.Items[i].Spec.Address) == ip {
			address = &list.Items[i]
		}
	}
	if len(address.Finalizers) != 1 || address.Finalizers[0] != ipam.InUseFinalizer {
		p.Errorf("the address has finalizers %v, want ours", address.Finalizers)
	}
}

func (p *play) wantRefusal(reason ipam.Reason) {
	p.Helper()
	<-p.done
	if refusal, ok := ipam.AsRefusal(p.err); !ok || refusal.Reason != reason {
		p.Fatalf("got %s and error %v, want a refusal %s", p.binding.Address, p.err, reason)
	}
}

func TestAddressThatTheClaimNamesIsAnswered(t *testing.T) {
	waiting(t, func(p *play) {
		p.makesAddress("pool-10-0-0-10", "10.0.0.10")
		if p.isAnswered() {
			t.Fatal("answered before the claim named the address")
		}
		p.namesAddress("pool-10-0-0-10")
		p.wantAddress("10.0.0.10")
	})
}

// The provider may be quicker than the request.
func TestAddressThatWasBoundBeforeTheRequestListenedIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &play{T: t, done: make(chan struct{})}
		p.pool = &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
		first, last := ipamv1.IPAddressStr("10.0.0.10"), ipamv1.IPAddressStr("10.0.0.19")
		p.pool.Spec.Pools = []ipamv1.Pool{{Start: &first, End: &last}}
		p.claim = p.claimWith("claim-1")
		p.Allocator = played(t, p.pool, p.claim)
		p.makesAddress("pool-10-0-0-10", "10.0.0.10")
		p.namesAddress("pool-10-0-0-10")
		p.binding, p.err = p.request(t.Context())
		close(p.done)
		p.wantAddress("10.0.0.10")
	})
}

func TestAddressThatTheClaimNamesWinsOverOneThatWasAcceptedEarly(t *testing.T) {
	waiting(t, func(p *play) {
		p.makesAddress("pool-10-0-0-10", "10.0.0.10")
		p.makesAddress("pool-10-0-0-11", "10.0.0.11")
		p.namesAddress("pool-10-0-0-11")
		p.wantAddress("10.0.0.11")
	})
}

func TestClaimThatItsProviderRefusesIsRefused(t *testing.T) {
	waiting(t, func(p *play) {
		exhausted := "Exhausted IP Pools"
		p.changeClaim(func(claim *ipamv1.IPClaim) { claim.Status.ErrorMessage = &exhausted })
		p.wantRefusal(ipam.PoolExhausted)
	})
}

// A claim of the same name is another one: what it is bound to is not for this request.
func TestClaimThatWasReplacedIsNotWaitedForUnderItsName(t *testing.T) {
	waiting(t, func(p *play) {
		if err := p.client.Delete(p.Context(), p.claim); err != nil {
			t.Fatal(err)
		}
		p.claim = p.claimWith("claim-2")
		if err := p.client.Create(p.Context(), p.claim); err != nil {
			t.Fatal(err)
		}
		p.makesAddress("pool-10-0-0-10", "10.0.0.10")
		p.namesAddress("pool-10-0-0-10")
		if p.isAnswered() {
			t.Fatalf("answered with %s of another claim", p.binding.Address)
		}
		p.wantRefusal(ipam.NotBoundInTime)
	})
}

// metal3 gives a claim what one of its name had, by a cache that may be behind, and does not
// look at it again.
func TestClaimThatNamesAnAddressWhichDoesNotExistIsDeleted(t *testing.T) {
	for name, exists := range map[string]bool{"it does not exist": false, "it is there, of another claim": true} {
		t.Run(name, func(t *testing.T) {
			waiting(t, func(p *play) {
				reason := ipam.NotBoundInTime
				if exists {
					reason = ipam.AddressLeft
					earlier := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
						Namespace: "ns", Name: "pool-10-0-0-10", Annotations: map[string]string{ipam.MachineUIDAnnotation: "earlier"},
					}}
					if err := p.client.Create(p.Context(), earlier); err != nil {
						t.Fatal(err)
					}
				}
				p.namesAddress("pool-10-0-0-10")
				p.wantRefusal(reason)
				err := p.client.Get(p.Context(), client.ObjectKeyFromObject(p.claim), &ipamv1.IPClaim{})
				if kept := err == nil; kept != exists {
					t.Errorf("the claim is kept: %t (%v), want %t", kept, err, exists)
				}
			})
		})
	}
}

func TestClaimThatIsNotBoundInTimeIsRefused(t *testing.T) {
	waiting(t, func(p *play) {
		start := time.Now()
		p.wantRefusal(ipam.NotBoundInTime)
		if waited := time.Since(start); waited != 10*time.Second {
			t.Errorf("waited for %s, want all of the request's time", waited)
		}
	})
}

// The in-cluster provider says nothing on a claim that it has no address for: the
// pool is asked again, by its own word that it is full or every second.
func TestPoolThatFillsUpRefusesTheClaimThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := &unstructured.Unstructured{Object: map[string]any{
			"status": map[string]any{"ipAddresses": map[string]any{"total": int64(1), "free": int64(1)}},
		}}
		pool.SetGroupVersionKind(schema.GroupVersionKind{Group: "ipam.cluster.x-k8s.io", Version: "v1alpha2", Kind: contract.InClusterKind})
		pool.SetNamespace("ns")
		pool.SetName("pool")
		provider := &fillingPool{Provider: contract.Provider{}, pool: pool, free: 1}
		a := played(t)
		a.providers = ipam.NewProviders(provider)
		want := ipam.Want{Pool: contract.InClusterPool("pool")}
		claim := provider.NewClaim(ipam.ClaimSpec{Name: "cp-0-0", Machine: ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}, Pool: want.Pool})
		if err := a.client.Create(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		attempt := a.attempt(Request{Asks: []ipam.Ask{askOf(want.Pool)}})
		if err := a.plan(t.Context(), attempt); err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() {
			_, err := a.await(t.Context(), attempt.allocations[0], provider.ReadClaim(claim))
			result <- err
		}()
		synctest.Wait()
		start := time.Now()
		provider.free = 0
		err := <-result
		if refusal, ok := ipam.AsRefusal(err); !ok || refusal.Reason != ipam.PoolExhausted {
			t.Errorf("got %v, want a refusal %s", err, ipam.PoolExhausted)
		}
		if waited := time.Since(start); waited > 2*recheckInterval {
			t.Errorf("waited for %s", waited)
		}
	})
}

// fillingPool is a provider with one pool, in which a test says what is free.
type fillingPool struct {
	contract.Provider
	pool *unstructured.Unstructured
	free uint64
}

func (f *fillingPool) Pool(_ context.Context, _ client.Reader, _ ipam.Machine, want ipam.Want) (ipam.Pool, error) {
	free := f.free
	return ipam.Pool{
		Object: f.pool, Reference: want.Pool, Total: 1, Silent: true,
		Free: func(claims []string) (uint64, uint64) { return free, uint64(len(claims)) },
	}, nil
}
