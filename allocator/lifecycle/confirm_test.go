package lifecycle

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// cp0 is the machine, stored long ago.
func cp0(changes ...func(*capi.VSphereMachine)) *capi.VSphereMachine {
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	for _, change := range changes {
		change(machine)
	}
	return machine
}

func onItsDevice(m *capi.VSphereMachine) {
	m.Spec.Network.Devices = []capi.Device{{IPAddrs: []string{"10.0.0.1/24"}}}
}

// annotatedWith writes a binding to this claim and address into the machine's annotation.
func annotatedWith(claim, address string) func(*capi.VSphereMachine) {
	return func(m *capi.VSphereMachine) {
		text, err := ipam.Bindings{Machine: "cp-0", Bindings: []ipam.Binding{{
			Pool: metal3.PoolNamed("pool"), Claim: claim, Address: netip.MustParsePrefix(address),
		}}}.Encode()
		if err != nil {
			panic(err)
		}
		m.Annotations = map[string]string{ipam.BindingsAnnotation: text}
	}
}

// unused is a claim that a request made for cp-0 an hour ago.
func unused(changes ...func(*ipamv1.IPClaim)) *ipamv1.IPClaim {
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "cp-0-0", UID: "claim", ResourceVersion: "5", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
	}}
	claim.Spec.Pool.Name = "pool"
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})
	ipam.Use(claim, ipam.Stamp{Time: now.Add(-time.Hour), Request: "request"})
	kube.SetAnnotation(claim, ipam.RequestedByAnnotation, "none")
	for _, change := range changes {
		change(claim)
	}
	return claim
}

// answering is the address of left, made for the claim of unused.
func answering(changes ...func(*ipamv1.IPAddress)) *ipamv1.IPAddress {
	address := left(now.Add(-time.Hour))
	address.UID = "address"
	address.OwnerReferences = []metav1.OwnerReference{{Kind: "IPClaim", Name: "cp-0-0", UID: "claim"}}
	for _, change := range changes {
		change(address)
	}
	return address
}

func adoptedOnce(a *ipamv1.IPAddress) { kube.SetAnnotation(a, ipam.MachineUIDAnnotation, "uid") }
func unguarded(a *ipamv1.IPAddress)   { a.Finalizers = []string{ipamv1.IPAddressFinalizer} }

// heldBack is a claim that others delete, and that only our finalizer keeps.
func heldBack(c *ipamv1.IPClaim) {
	c.DeletionTimestamp, c.Finalizers = &deleted, []string{ipam.InUseFinalizer}
}

// behind makes the API server have these objects while the cache has its own.
func (r *Reconciler) behind(t *testing.T, live ...client.Object) {
	t.Helper()
	r.live = reconciler(t, live...).live
}

// Each row is a step that frees, and one thing of which the cache does not know yet.
func TestNothingIsFreedOnTheWordOfTheCacheAlone(t *testing.T) {
	type objects = []client.Object
	for name, test := range map[string]struct {
		cached, live objects
		requeued     bool
	}{
		"claim, used by a request with a slow clock": {cached: objects{unused()}, live: objects{unused(func(c *ipamv1.IPClaim) { c.ResourceVersion = "6" })}, requeued: true},
		"claim, replaced":                               {cached: objects{unused()}, live: objects{unused(func(c *ipamv1.IPClaim) { c.UID, c.ResourceVersion = "later", "6" })}, requeued: true},
		"claim, adopted":                                {cached: objects{unused()}, live: objects{unused(func(c *ipamv1.IPClaim) { ownedBy("uid")(nil, c, nil) })}},
		"claim, gone":                                   {cached: objects{unused()}},
		"claim, its machine stored":                     {cached: objects{unused()}, live: objects{unused(), cp0()}, requeued: true},
		"claim, its machine replaced":                   {cached: objects{unused(), cp0()}, live: objects{unused(), cp0(func(m *capi.VSphereMachine) { m.UID = "later" })}, requeued: true},
		"claim, in the machine's annotation":            {cached: objects{unused(), cp0()}, live: objects{unused(), cp0(annotatedWith("cp-0-0", "10.0.0.9/24"))}, requeued: true},
		"claim, its address in the machine's one":       {cached: objects{unused(naming("pool-10-0-0-1")), answering(), cp0()}, live: objects{unused(naming("pool-10-0-0-1")), answering(), cp0(annotatedWith("cp-0-7", "10.0.0.1/24"))}, requeued: true},
		"spare address, its machine has it":             {cached: objects{answering(), cp0()}, live: objects{cp0(onItsDevice)}, requeued: true},
		"address left, its machine stored":              {cached: objects{answering()}, live: objects{cp0()}, requeued: true},
		"address left, its claim made":                  {cached: objects{answering()}, live: objects{unused()}, requeued: true},
		"stray address, its claim not bound yet":        {cached: objects{answering(unguarded)}, live: objects{unused()}, requeued: true},
		"stray address, its machine has it":             {cached: objects{answering(unguarded), cp0()}, live: objects{cp0(onItsDevice)}, requeued: true},
		"stray address, its machine goes":               {cached: objects{answering(unguarded)}, live: objects{cp0(func(m *capi.VSphereMachine) { m.DeletionTimestamp, m.Finalizers = &deleted, []string{"other"} })}, requeued: true},
		"claim held back, its machine stored":           {cached: objects{unused(heldBack), answering(unguarded)}, live: objects{unused(heldBack), cp0()}, requeued: true},
		"claim held back, replaced by one that is used": {cached: objects{unused(heldBack), answering(unguarded)}, live: objects{unused(func(c *ipamv1.IPClaim) { c.UID = "later" })}, requeued: true},
	} {
		t.Run(name, func(t *testing.T) {
			pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
			r := reconciler(t, append(test.cached, pool)...)
			r.behind(t, test.live...)
			var writes []string
			note := func(verb string, obj client.Object) { writes = append(writes, fmt.Sprintf("%s %T", verb, obj)) }
			r.client = interceptor.NewClient(r.client.(client.WithWatch), interceptor.Funcs{
				Patch: func(_ context.Context, _ client.WithWatch, obj client.Object, _ client.Patch, _ ...client.PatchOption) error {
					note("patch", obj)
					return nil
				},
				Delete: func(_ context.Context, _ client.WithWatch, obj client.Object, _ ...client.DeleteOption) error {
					note("delete", obj)
					return nil
				},
			})
			r.at(now)
			r.settle(t.Context(), t) // it is seen
			r.at(now.Add(r.grace))
			if len(writes) > 0 {
				t.Fatalf("before its time it did %v", writes)
			}

			got, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})
			if err != nil {
				t.Fatal(err)
			}
			if len(writes) > 0 {
				t.Errorf("it did %v, want nothing", writes)
			}
			if requeued := got.RequeueAfter > 0; requeued != test.requeued {
				t.Errorf("it looks again after %s, want that at all: %t", got.RequeueAfter, test.requeued)
			}
		})
	}
}

// A request uses a claim before its machine is stored, and a machine is stored before its
// VM is made.
func TestFactsAreReadAgainInTheOrderInWhichTheyComeToBe(t *testing.T) {
	second := answering(unguarded)
	second.Name, second.UID, second.Spec.Claim.Name, second.Spec.Address = "pool-10-0-0-2", "second", "cp-0-1", "10.0.0.2"
	dying := cp0(func(m *capi.VSphereMachine) {
		m.DeletionTimestamp, m.Finalizers = &deleted, []string{ipam.ReleaseFinalizer}
	})
	for name, test := range map[string]struct {
		objects []client.Object
		want    []string
	}{
		"a claim that no machine uses":   {[]client.Object{unused()}, []string{"IPClaim", "VSphereMachine", "VSphereVMList"}},
		"an address that a machine left": {[]client.Object{answering()}, []string{"IPClaim", "VSphereMachine", "VSphereVMList"}},
		"two at once, with one machine":  {[]client.Object{unused(), second}, []string{"IPClaim", "IPClaim", "VSphereMachine", "VSphereVMList"}},
		"what a machine still needs":     {[]client.Object{cp0(annotatedWith("cp-0-0", "10.0.0.1/24"))}, nil},
		"a machine that is being deleted, which is observed live": {
			[]client.Object{dying, unused(func(c *ipamv1.IPClaim) { ownedBy("uid")(nil, c, nil) })}, []string{"VSphereMachine", "VSphereVMList"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := reconciler(t, test.objects...)
			var reads []string
			note := func(obj runtime.Object) {
				kind, err := r.client.GroupVersionKindFor(obj)
				if err != nil {
					t.Error(err)
				}
				reads = append(reads, kind.Kind)
			}
			r.live = interceptor.NewClient(r.client.(client.WithWatch), interceptor.Funcs{
				Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
					note(obj)
					return c.Get(ctx, key, obj, opts...)
				},
				List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
					note(list)
					return c.List(ctx, list, opts...)
				},
			})
			key := types.NamespacedName{Namespace: "ns", Name: "cp-0"}
			r.at(now)
			s, err := r.observe(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			reads = nil
			r.at(now.Add(r.grace))
			if s.deleting {
				reads = []string{"VSphereMachine"}
			}

			for _, d := range r.decideAll(t.Context(), s) {
				if d.err != nil {
					t.Fatal(d.err)
				}
			}
			if !slices.Equal(reads, test.want) {
				t.Errorf("it read %v, want %v", reads, test.want)
			}
		})
	}
}

// A request that comes after its claim was read again changes that, so deleting it is a
// conflict.
func TestClaimThatARequestUsesWhileItIsReapedStays(t *testing.T) {
	claim := unused()
	r := reconciler(t, claim)
	stored := r.client.(client.WithWatch)
	r.at(now)
	r.settle(t.Context(), t) // it is seen
	r.at(now.Add(r.grace))
	r.live = interceptor.NewClient(stored, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			used := &ipamv1.IPClaim{}
			if err := c.Get(ctx, client.ObjectKeyFromObject(claim), used); err != nil {
				return err
			}
			ipam.Use(used, ipam.Stamp{Time: now, Request: "again"})
			if err := c.Update(ctx, used); err != nil {
				return err
			}
			return c.List(ctx, list, opts...)
		},
	})

	got, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})
	if err != nil || got.RequeueAfter != conflictRetry {
		t.Errorf("it looks again after %s (error %v), want %s, as after a conflict", got.RequeueAfter, err, conflictRetry)
	}
	if err := stored.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		t.Errorf("got error %v, want the claim to be there", err)
	}
}

// What the second decision says counts, but it frees only what the first one would.
func TestStepThatIsTakenAfterTheSecondDecision(t *testing.T) {
	for name, test := range map[string]struct {
		first, second, want decision
		other               bool
	}{
		"both say the same":       {first: decision{step: reap}, second: decision{step: reap}, want: decision{step: reap}},
		"the second one waits":    {first: decision{step: reap}, second: decision{step: idle, wait: vmCheck}, want: decision{step: idle, wait: vmCheck}},
		"the second one protects": {first: decision{step: release}, second: decision{step: protect}, want: decision{step: protect}},
		"it frees otherwise":      {first: decision{step: reap}, second: decision{step: unprotect}, want: decision{step: idle, wait: behindCheck}},
		"of another machine":      {first: decision{step: reap}, second: decision{step: reap}, want: decision{step: idle, wait: behindCheck}, other: true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := settled(test.first, test.second, !test.other); got != test.want {
				t.Errorf("got %q after %s, want %q after %s", got.step, got.wait, test.want.step, test.want.wait)
			}
		})
	}
}

func TestMachineThatHasChangedIsNotTheOneObserved(t *testing.T) {
	for name, change := range map[string]func(*machineState){
		"gone":               func(m *machineState) { *m = absent() },
		"replaced":           func(m *machineState) { m.uid = "later" },
		"being deleted":      func(m *machineState) { m.deleting = true },
		"only ours any more": func(m *machineState) { m.done = true },
		"being moved":        func(m *machineState) { m.moving = true },
	} {
		t.Run(name, func(t *testing.T) {
			m := living()
			if !m.isSame(living()) {
				t.Error("it is another one before it has changed")
			}
			if change(&m); m.isSame(living()) {
				t.Error("it is still the same")
			}
		})
	}
}

// The annotation counts here whoever wrote it: it keeps an address, and claims none.
func TestUseThatAMachineMakesOfAHolding(t *testing.T) {
	other := metal3.PoolNamed("pool")
	other.APIGroup, other.Kind = "ipam.cluster.x-k8s.io", "InClusterIPPool"
	type facts struct{ used, rebound, onDevice bool }
	for name, test := range map[string]struct {
		machine *capi.VSphereMachine
		holding holding
		want    facts
	}{
		"no machine":                       {nil, spareClaim(0, inAnnotation, rebound, onDevice), facts{}},
		"a machine without anything":       {cp0(), spareClaim(0, inAnnotation, rebound, onDevice), facts{}},
		"its claim bound":                  {cp0(annotatedWith("cp-0-0", "10.0.0.9/24")), spareClaim(0), facts{used: true, rebound: true}},
		"its claim bound, of no address":   {cp0(annotatedWith("cp-0-0", "10.0.0.9/24")), spareClaim(0, withoutAddress), facts{used: true}},
		"a claim of its name bound":        {cp0(annotatedWith("cp-0-0", "10.0.0.9/24")), onPool(other, spareClaim(0, withoutAddress)), facts{}},
		"its address bound":                {cp0(annotatedWith("cp-0-7", "10.0.0.1/24")), spare(0), facts{used: true}},
		"its address on a device":          {cp0(onItsDevice), spare(0), facts{onDevice: true}},
		"the claim of the address, bound":  {cp0(annotatedWith("cp-0-0", "10.0.0.9/24")), spare(0), facts{rebound: true}},
		"another claim and address, bound": {cp0(annotatedWith("cp-0-7", "10.0.0.9/24")), spareClaim(0), facts{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reconciler{providers: ipam.Providers{metal3.Provider{}, contract.Provider{}}}
			s := &state{object: test.machine}
			s.exists = test.machine != nil

			r.observeUse(s, &test.holding)

			if got := (facts{test.holding.used, test.holding.rebound, test.holding.onDevice}); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// One IPAM controller may serve two claim APIs from its pools, so what a pool is says
// nothing of what its claims are.
func TestClaimIsReadAgainByItsOwnAPI(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{ipamv1.AddToScheme, capiipamv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	claim := &capiipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "claim"}}
	address := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "address"}}
	claim.Spec.PoolRef.APIGroup, claim.Spec.PoolRef.Kind, claim.Spec.PoolRef.Name = ipamv1.GroupVersion.Group, "IPPool", "pool"
	address.Spec.PoolRef, address.Spec.ClaimRef.Name = claim.Spec.PoolRef, claim.Name
	live := fake.NewClientBuilder().WithScheme(scheme).WithObjects(claim, address).Build()
	r := &Reconciler{providers: ipam.Providers{metal3.Provider{}, contract.Provider{}}, live: live, now: time.Now}
	s := &state{namespace: "ns", machineState: absent()}
	readClaim, readAddress := contract.Provider{}.ReadClaim(claim), contract.Provider{}.ReadAddress(address)
	for name, h := range map[string]*holding{
		"its own":              {claim: &readClaim},
		"that of its address":  {address: &readAddress},
		"one that it has both": {claim: &readClaim, address: &readAddress},
	} {
		t.Run(name, func(t *testing.T) {
			own, made := h.claim != nil, h.address != nil
			if err := r.rereadClaims(t.Context(), s, h); err != nil {
				t.Fatal(err)
			}
			if got := h.claim != nil; got != own {
				t.Errorf("it has a claim: %t, want %t", got, own)
			}
			if got := h.madeFor != nil; got != made {
				t.Errorf("its address was made for a claim: %t, want %t", got, made)
			}
		})
	}
}

// onPool is a holding whose claim is on this pool.
func onPool(pool ipam.PoolReference, h holding) holding {
	h.claim.Pool = pool
	return h
}
