package migration

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/inventory"
)

// Somebody else begins after one write, and comes to his end: then the first one goes on with
// what he has read before.
func TestTwoWhoMigrateAtOnceFreeNothingThatIsInUse(t *testing.T) {
	for name, rival := range map[string]func(w *world, d [2]inventory.PoolKey) error{
		"the other one does the same": func(w *world, d [2]inventory.PoolKey) error {
			return w.impatient(d[0], d[1]).Run(context.Background())
		},
		"the other one undoes it": func(w *world, d [2]inventory.PoolKey) error {
			return w.impatient(d[0], d[1]).Abort(context.Background())
		},
		"the other one moves them back": func(w *world, d [2]inventory.PoolKey) error {
			return w.impatient(d[1], d[0]).Run(context.Background())
		},
	} {
		for direction, d := range directions() {
			if d[0].Kind == d[1].Kind {
				// What is decided is the same, and it takes a while.
				continue
			}
			t.Run(name+", "+direction, func(t *testing.T) {
				for writes, finished := 1, false; !finished; writes++ {
					finished = rivals(t, d, writes, rival)
				}
			})
		}
	}
}

// impatient is a migration that is not killed, and gives up soon.
func (w *world) impatient(from, to inventory.PoolKey) *Migration {
	m := w.migration(from, to, 1000)
	m.Timeout = 100 * time.Millisecond
	return m
}

// rivals has a rival act after so many writes, and tells whether there were not as many.
func rivals(t *testing.T, d [2]inventory.PoolKey, writes int, rival func(*world, [2]inventory.PoolKey) error) (finished bool) {
	t.Helper()
	w := newWorld(t, d[0])
	made, finished := 0, true
	w.then = func() {
		if made++; made == writes {
			finished = false
			left, then := w.left, w.then
			w.then = w.check
			err := rival(w, d)
			t.Logf("after %d writes, the other one: %v", writes, err)
			w.left, w.then = left, then
		}
		w.check()
	}
	err := w.impatient(d[0], d[1]).Run(t.Context())
	t.Logf("after %d writes, the first one: %v", writes, err)
	if err := w.isHeld(); err != nil {
		t.Errorf("after %d writes: %v", writes, err)
	}
	w.then = w.check
	if err := w.impatient(d[0], d[1]).Run(t.Context()); err != nil {
		t.Errorf("after %d writes, run again: %v", writes, err)
	}
	if pool, _ := w.holds("cp"); pool != d[1].Name {
		t.Errorf("after %d writes, run again, the machine is held by %s", writes, pool)
	}
	return finished
}

// check fails if nobody holds the address that the machine has, or if a pool that has held it
// would hand it out while the other one holds it.
func (w *world) check() {
	w.t.Helper()
	ctx := context.Background()
	stored := &capi.VSphereMachine{}
	w.must(w.Client.Get(ctx, types.NamespacedName{Namespace: "ns", Name: "cp"}, stored))
	binding := bindingsIn(stored)[0]
	source := w.source()
	source.Client, source.Reader = w.Client, w.Client
	graph, err := source.ReadWhole(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.had == nil {
		w.had = map[inventory.PoolKey]bool{}
	}
	holds := false
	for _, pool := range graph.Pools {
		if pool.Object == nil {
			continue
		}
		has := slices.ContainsFunc(pool.Addresses, func(a inventory.Address) bool { return a.IP == binding.Address.Addr() })
		all, reserved, _ := ipam.Ranges(pool.Provider, pool.Object)
		isOpen := !annotations.HasPaused(pool.Object) && all.Contains(binding.Address.Addr()) && !reserved.Contains(binding.Address.Addr())
		if !has && w.had[pool.PoolKey] && binding.Pool != pool.PoolReference && isOpen {
			w.t.Errorf("%s has given %s back, and hands it out again", pool, binding.Address)
		}
		w.had[pool.PoolKey] = w.had[pool.PoolKey] || has
		holds = holds || has
	}
	if !holds {
		w.t.Errorf("nobody holds %s", binding.Address)
	}
}

// What keeps a migration from beginning ends one that is under way.
func TestMigrationSaysSoWhenItMayNotGoOn(t *testing.T) {
	d := directions()["metal3 to in-cluster"]
	w := newWorld(t, d[0])
	writes := 0
	w.then = func() {
		if writes++; writes != 2 {
			return
		}
		pool := unstructuredOf("ipam.cluster.x-k8s.io/v1alpha2", "InClusterIPPool", "", nil)
		w.must(w.Client.Get(t.Context(), types.NamespacedName{Namespace: "ns", Name: "b"}, pool))
		pool.SetFinalizers([]string{"ipam.cluster.x-k8s.io/ProtectPool"})
		w.must(w.Update(t.Context(), pool))
		w.must(w.Client.Delete(t.Context(), pool))
	}

	err := w.migration(d[0], d[1], 1000).Run(t.Context())

	if err == nil || !strings.Contains(err.Error(), "is being deleted") {
		t.Errorf("got %v, want to be told that the new pool is being deleted", err)
	}
	if pool, _ := w.holds("cp"); pool != d[0].Name {
		t.Errorf("the machine is held by %s", pool)
	}
}

// An address that its provider keeps for a while after its claim is given back by it alone.
func TestAddressThatLingersInTheOldPoolIsKept(t *testing.T) {
	d := directions()["in-cluster to metal3"]
	w := newWorld(t, d[0])
	w.lingers("10.0.0.5")

	if err := w.migration(d[0], d[1], 1000).Run(t.Context()); err != nil {
		t.Fatal(err)
	}

	if _, addresses := w.holds("cp"); addresses != 2 {
		t.Errorf("%d addresses exist, want that of the machine and the one that lingers", addresses)
	}
	next := &ipamv1.IPPool{}
	w.must(w.Client.Get(t.Context(), types.NamespacedName{Namespace: "ns", Name: "a"}, next))
	if _, reserved, _ := (metal3.Provider{}).Ranges(next); !reserved.Contains(netip.MustParseAddr("10.0.0.5")) {
		t.Errorf("the new pool keeps %v, want 10.0.0.5 among them", next.Spec.PreAllocations)
	}
}

// lingers has a claim of the old pool be deleted whose address its provider keeps for an hour.
func (w *world) lingers(ip string) {
	w.t.Helper()
	ctx := context.Background()
	pool := unstructuredOf("ipam.cluster.x-k8s.io/v1alpha2", "InClusterIPPool", "", nil)
	w.must(w.Client.Get(ctx, types.NamespacedName{Namespace: "ns", Name: "b"}, pool))
	w.must(unstructured.SetNestedField(pool.Object, int64(3600), "spec", "addressReuseGracePeriodSeconds"))
	w.must(w.Update(ctx, pool))
	claim := &capiipamv1.IPAddressClaim{ObjectMeta: named("gone-0")}
	claim.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "b"}
	claim.Finalizers, claim.Status.AddressRef.Name = []string{releaseAddress}, "gone-0"
	address := &capiipamv1.IPAddress{ObjectMeta: named("gone-0")}
	address.Spec.Address, address.Spec.ClaimRef.Name, address.Spec.PoolRef = ip, "gone-0", claim.Spec.PoolRef
	address.Finalizers = []string{protectAddress}
	w.must(w.Client.Create(ctx, claim))
	w.must(w.Client.Create(ctx, address))
	w.must(w.Client.Delete(ctx, claim))
}

// What the new provider gives away is seen until it has bound the machine's claim.
func TestAddressThatIsGivenAwayMeanwhileStays(t *testing.T) {
	d := directions()["metal3 to in-cluster"]
	for name, isTime := range map[string]func(w *world, writes int) bool{
		// After the freeze, the plan is made; the second write is the reservation.
		"before the reservation": func(_ *world, writes int) bool { return writes == 2 },
		"before the claim is bound": func(w *world, _ int) bool {
			claims := &capiipamv1.IPAddressClaimList{}
			w.must(w.List(context.Background(), claims))
			return len(claims.Items) == 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, d[0])
			writes, given := 0, false
			w.then = func() {
				if writes++; given || !isTime(w, writes) {
					return
				}
				given = true
				w.must(w.Client.Create(context.Background(), givenAway("10.0.0.1")))
			}

			err := w.migration(d[0], d[1], 1000).Run(t.Context())

			if err == nil || !strings.Contains(err.Error(), "has given 10.0.0.1 to claim ns/other") {
				t.Errorf("got %v, want to be told who has the address", err)
			}
			if pool, _ := w.holds("cp"); pool != d[0].Name {
				t.Errorf("the machine is held by %s", pool)
			}
		})
	}
}

func TestMachineIsNotSwitchedWhileNobodyKnowsWhoHasItsAddress(t *testing.T) {
	d := directions()["metal3 to in-cluster"]
	w := newWorld(t, d[0])
	failure := errors.New("the API server is overloaded")
	w.fails = func(list client.ObjectList) error {
		claims := &capiipamv1.IPAddressClaimList{}
		w.must(w.Client.List(context.Background(), claims))
		if _, ok := list.(*capiipamv1.IPAddressList); ok && len(claims.Items) > 0 {
			return failure
		}
		return nil
	}

	err := w.migration(d[0], d[1], 1000).Run(t.Context())

	if !errors.Is(err, failure) {
		t.Errorf("got %v, want that the addresses could not be listed", err)
	}
	w.fails = nil
	if pool, _ := w.holds("cp"); pool != d[0].Name {
		t.Errorf("the machine is held by %s", pool)
	}
}

// addSecond adds a second machine to the old pool, and returns its name.
func (s *scene) addSecond() string {
	machine, claim, address := s.machine.DeepCopy(), s.claim.DeepCopy(), s.address.DeepCopy()
	machine.Name, machine.UID = "second", "second"
	machine.Spec.Network.Devices[0].IPAddrs = []string{"10.0.0.2/24"}
	machine.Annotations[ipam.BindingsAnnotation] = strings.NewReplacer("10.0.0.1", "10.0.0.2", `"cp"`, `"second"`, "cp-0", "second-0").Replace(machine.Annotations[ipam.BindingsAnnotation])
	claim.Name, claim.UID, claim.Status.Address.Name = "second-0", "second-claim", "a-10-0-0-2"
	claim.OwnerReferences[0].Name, claim.OwnerReferences[0].UID = machine.Name, machine.UID
	address.Name, address.Spec.Address, address.Spec.Claim.Name = "a-10-0-0-2", "10.0.0.2", claim.Name
	address.OwnerReferences[0].Name, address.OwnerReferences[0].UID = claim.Name, claim.UID
	kube.SetAnnotation(address, ipam.MachineNameAnnotation, machine.Name)
	s.more = append(s.more, machine, claim, address)
	return machine.Name
}

func TestMachineThatCannotBeMovedDoesNotKeepThoseThatAreMovedWithIt(t *testing.T) {
	d := directions()["metal3 to in-cluster"]
	s := newScene()
	second := s.addSecond()
	w := &world{Client: s.client(t), t: t}
	given := false
	w.then = func() {
		claims := &capiipamv1.IPAddressClaimList{}
		w.must(w.List(context.Background(), claims))
		if given || len(claims.Items) < 2 {
			return
		}
		given = true
		w.must(w.Client.Create(context.Background(), givenAway("10.0.0.2")))
	}
	m := w.migration(d[0], d[1], 1000)
	m.Client, m.Parallel = &turns{world: w}, 2

	err := m.Run(t.Context())

	if err == nil || !strings.Contains(err.Error(), "has given 10.0.0.2 to claim ns/other") {
		t.Errorf("got %v, want to be told who has the address", err)
	}
	if pool, _ := w.holds("cp"); pool != d[1].Name {
		t.Errorf("the machine that can be moved is held by %s", pool)
	}
	if pool, _ := w.holds(second); pool != d[0].Name {
		t.Errorf("the machine whose address another has is held by %s", pool)
	}
}

// givenAway is an address that the new provider has given to somebody else.
func givenAway(ip string) client.Object {
	other := &capiipamv1.IPAddress{ObjectMeta: named("other")}
	other.UID = "other"
	other.Spec.Address, other.Spec.ClaimRef.Name = ip, "other"
	other.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "b"}
	return other
}

// turns has those who move machines side by side use a world one after the other.
type turns struct {
	*world
	mu sync.Mutex
}

func (c *turns) Get(ctx context.Context, key types.NamespacedName, obj client.Object, opts ...client.GetOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.world.Get(ctx, key, obj, opts...)
}

func (c *turns) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.world.Create(ctx, obj, opts...)
}

func (c *turns) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.world.Delete(ctx, obj, opts...)
}

func (c *turns) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.world.Patch(ctx, obj, patch, opts...)
}
