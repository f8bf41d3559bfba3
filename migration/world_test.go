package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/inventory"
)

const (
	releaseAddress = "ipam.cluster.x-k8s.io/ReleaseAddress"
	protectAddress = "ipam.cluster.x-k8s.io/ProtectAddress"
)

// world is a cluster in memory in which both providers act after each write, as far as a
// migration needs them. Whoever writes may be killed after so many writes.
type world struct {
	client.Client
	t    *testing.T
	left int
	// then is what others do after a write, if a test has them do anything.
	then func()
	// fails is why a list fails, if a test has it.
	fails func(client.ObjectList) error
	// had are the pools that have held the address of the machine, see check.
	had map[inventory.PoolKey]bool
}

var errKilled = errors.New("killed")

func (w *world) alive() error {
	if w.left <= 0 {
		return errKilled
	}
	return nil
}

func (w *world) write(err error) error {
	w.serve()
	if w.then != nil {
		w.then()
	}
	if w.left--; err == nil && w.left <= 0 {
		return errKilled
	}
	return err
}

func (w *world) Get(ctx context.Context, key types.NamespacedName, obj client.Object, opts ...client.GetOption) error {
	return errors.Join(w.alive(), w.Client.Get(ctx, key, obj, opts...))
}

func (w *world) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if w.fails != nil {
		if err := w.fails(list); err != nil {
			return err
		}
	}
	return w.Client.List(ctx, list, opts...)
}

func (w *world) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	if err := w.alive(); err != nil {
		return err
	}
	return w.write(w.Client.Create(ctx, obj, opts...))
}

func (w *world) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	if err := w.alive(); err != nil {
		return err
	}
	return w.write(w.Client.Delete(ctx, obj, opts...))
}

func (w *world) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	if err := w.alive(); err != nil || slices.Contains(opts, client.PatchOption(client.DryRunAll)) {
		return err
	}
	return w.write(w.Client.Patch(ctx, obj, patch, opts...))
}

func (w *world) must(err error) {
	w.t.Helper()
	if client.IgnoreNotFound(err) != nil {
		w.t.Fatal(err)
	}
}

// serve has both providers act.
func (w *world) serve() {
	ctx := context.Background()
	claims, addresses := &ipamv1.IPClaimList{}, &ipamv1.IPAddressList{}
	w.must(w.List(ctx, claims))
	w.must(w.List(ctx, addresses))
	for i := range claims.Items {
		w.serveMetal3(ctx, &claims.Items[i], addresses)
	}
	contracts := &capiipamv1.IPAddressClaimList{}
	w.must(w.List(ctx, contracts))
	for i := range contracts.Items {
		w.serveInCluster(ctx, &contracts.Items[i])
	}
}

func (w *world) serveMetal3(ctx context.Context, claim *ipamv1.IPClaim, addresses *ipamv1.IPAddressList) {
	own := slices.IndexFunc(addresses.Items, func(a ipamv1.IPAddress) bool {
		return a.Spec.Claim.Name == claim.Name && a.Spec.Pool.Name == claim.Spec.Pool.Name
	})
	switch {
	case !claim.DeletionTimestamp.IsZero():
		if slices.Contains(claim.Finalizers, ipam.InUseFinalizer) {
			return
		}
		if own >= 0 {
			address := &addresses.Items[own]
			controllerutil.RemoveFinalizer(address, ipamv1.IPAddressFinalizer)
			w.must(w.Update(ctx, address))
			w.must(w.Client.Delete(ctx, address))
		}
		claim.Finalizers = nil
		w.must(w.Update(ctx, claim))
	case claim.Status.Address == nil:
		ip := claim.Annotations[metal3.RequestAnnotation]
		address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: claim.Spec.Pool.Name + "-" + ip, Finalizers: []string{ipamv1.IPAddressFinalizer}, Labels: claim.Labels,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "IPClaim", Name: claim.Name, UID: claim.UID}},
		}}
		address.Spec.Address, address.Spec.Claim.Name, address.Spec.Pool.Name = ipamv1.IPAddressStr(ip), claim.Name, claim.Spec.Pool.Name
		w.must(w.Client.Create(ctx, address))
		controllerutil.AddFinalizer(claim, ipamv1.IPClaimFinalizer)
		claim.Status.Address = &corev1.ObjectReference{Name: address.Name}
		w.must(w.Update(ctx, claim))
	}
}

func (w *world) serveInCluster(ctx context.Context, claim *capiipamv1.IPAddressClaim) {
	pool := unstructuredOf("ipam.cluster.x-k8s.io/v1alpha2", "InClusterIPPool", "", nil)
	w.must(w.Client.Get(ctx, types.NamespacedName{Namespace: "ns", Name: claim.Spec.PoolRef.Name}, pool))
	address := &capiipamv1.IPAddress{}
	err := w.Client.Get(ctx, client.ObjectKeyFromObject(claim), address)
	w.must(err)
	switch {
	case annotations.HasPaused(pool):
	case !claim.DeletionTimestamp.IsZero() && time.Since(claim.DeletionTimestamp.Time) < (contract.Provider{Mapper: w.RESTMapper()}).Lingers(pool):
	case !claim.DeletionTimestamp.IsZero():
		if err == nil {
			controllerutil.RemoveFinalizer(address, protectAddress)
			w.must(w.Update(ctx, address))
			w.must(w.Client.Delete(ctx, address))
		}
		claim.Finalizers = nil
		w.must(w.Update(ctx, claim))
	case claim.Status.AddressRef.Name == "":
		if err != nil {
			w.t.Errorf("claim %s comes before its address", claim.Name)
			return
		}
		address.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "IPAddressClaim", Name: claim.Name, UID: claim.UID}}
		controllerutil.AddFinalizer(address, protectAddress)
		w.must(w.Update(ctx, address))
		controllerutil.AddFinalizer(claim, releaseAddress)
		claim.Status.AddressRef.Name = address.Name
		w.must(w.Update(ctx, claim))
	}
}

// isHeld returns an error unless the machine says that it has a claim that has its address.
func (w *world) isHeld() error {
	ctx := context.Background()
	stored := &capi.VSphereMachine{}
	if err := w.Client.Get(ctx, types.NamespacedName{Namespace: "ns", Name: "cp"}, stored); err != nil {
		return err
	}
	b := bindingsIn(stored)[0]
	provider := w.source().Providers.For(b.Pool)
	address := ipam.EmptyAddress(provider)
	claim := ipam.EmptyClaim(provider)
	if err := w.Client.Get(ctx, types.NamespacedName{Namespace: "ns", Name: b.Claim}, claim); err != nil {
		return err
	}
	read := provider.ReadClaim(claim)
	if err := w.Client.Get(ctx, types.NamespacedName{Namespace: "ns", Name: read.Address}, address); err != nil {
		return err
	}
	if !claim.GetDeletionTimestamp().IsZero() || !address.GetDeletionTimestamp().IsZero() {
		return fmt.Errorf("claim %s or its address is being deleted", b.Claim)
	}
	return nil
}

func bindingsIn(stored *capi.VSphereMachine) []ipam.Binding {
	bindings, _ := ipam.ParseBindings(stored.Annotations[ipam.BindingsAnnotation])
	return bindings.Bindings
}

// holds is the pool of which the machine has its only address, and how many addresses exist.
func (w *world) holds(machine string) (pool string, addresses int) {
	ctx := context.Background()
	stored := &capi.VSphereMachine{}
	w.must(w.Client.Get(ctx, types.NamespacedName{Namespace: "ns", Name: machine}, stored))
	ofMetal3, ofContract := &ipamv1.IPAddressList{}, &capiipamv1.IPAddressList{}
	w.must(w.List(ctx, ofMetal3))
	w.must(w.List(ctx, ofContract))
	return bindingsIn(stored)[0].Pool.Name, len(ofMetal3.Items) + len(ofContract.Items)
}

func (w *world) source() inventory.Source {
	return inventory.Source{
		Client: w, Reader: w, Namespace: "ns", WithWorkloads: true, Now: time.Now,
		Providers: ipam.NewProviders(contract.Provider{Mapper: w.RESTMapper(), Live: w}, metal3.Provider{}),
	}
}

// migration is one between these pools that is killed after so many writes.
func (w *world) migration(from, to inventory.PoolKey, writes int) *Migration {
	w.left = writes
	return &Migration{Client: w, Source: w.source(), From: from, To: to, Timeout: time.Second, Report: func(string, ...any) {}}
}

// directions are the pools of a scene, and such as it is moved on to.
func directions() map[string][2]inventory.PoolKey {
	key := func(ref ipam.PoolReference) inventory.PoolKey {
		return inventory.PoolKey{Namespace: "ns", PoolReference: ref}
	}
	a, b := key(metal3.PoolNamed("a")), key(contract.InClusterPool("b"))
	return map[string][2]inventory.PoolKey{
		"metal3 to in-cluster": {a, b}, "in-cluster to metal3": {b, a},
		"metal3 to metal3": {a, key(metal3.PoolNamed("c"))}, "in-cluster to in-cluster": {b, key(contract.InClusterPool("d"))},
	}
}

func newWorld(t *testing.T, from inventory.PoolKey) *world {
	t.Helper()
	s := newScene()
	third := s.old.DeepCopy()
	third.Name, third.Spec.NamePrefix = "c", "c"
	fourth := s.fresh.DeepCopy()
	fourth.SetName("d")
	s.more = append(s.more, third, fourth)
	s.claim.Finalizers = []string{ipamv1.IPClaimFinalizer, ipam.InUseFinalizer}
	s.address.Finalizers = append(s.address.Finalizers, ipamv1.IPAddressFinalizer)
	w := &world{Client: s.client(t), t: t}
	if from.Kind == "IPPool" {
		return w
	}
	// It begins where a migration of the other direction has ended.
	d := directions()["metal3 to in-cluster"]
	if err := w.migration(d[0], d[1], 1000).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// again runs what is to follow a migration that was killed after so many writes, and tells
// whether there was nothing left to be killed.
func again(t *testing.T, d [2]inventory.PoolKey, writes int, then func(*Migration, context.Context) error) (w *world, finished bool) {
	t.Helper()
	w = newWorld(t, d[0])
	finished = w.migration(d[0], d[1], writes).Run(t.Context()) == nil
	if err := w.isHeld(); err != nil {
		t.Fatalf("killed after %d writes: %v", writes, err)
	}
	if err := then(w.migration(d[0], d[1], 1000), t.Context()); err != nil {
		t.Fatalf("after %d writes: %v", writes, err)
	}
	if err := w.isHeld(); err != nil {
		t.Fatalf("after %d writes and another run: %v", writes, err)
	}
	if _, addresses := w.holds("cp"); addresses != 1 {
		t.Fatalf("after %d writes and another run, %d addresses exist", writes, addresses)
	}
	return w, finished
}

func TestMigrationThatIsKilledAfterAnyWriteIsFinished(t *testing.T) {
	for name, d := range directions() {
		t.Run(name, func(t *testing.T) {
			for writes, finished := 1, false; !finished; writes++ {
				var w *world
				if w, finished = again(t, d, writes, (*Migration).Run); finished {
					t.Logf("it takes %d writes", writes)
				}
				if pool, _ := w.holds("cp"); pool != d[1].Name {
					t.Fatalf("after %d writes, and another run, the machine is held by %s", writes, pool)
				}
			}
		})
	}
}

func TestMigrationThatIsKilledAfterAnyWriteIsUndone(t *testing.T) {
	for name, d := range directions() {
		t.Run(name, func(t *testing.T) {
			beyond := 0
			for writes, finished := 1, false; !finished; writes++ {
				var w *world
				w, finished = again(t, d, writes, (*Migration).Abort)
				switch pool, _ := w.holds("cp"); {
				case pool == d[1].Name && beyond == 0:
					beyond = writes
				case pool != d[1].Name && beyond > 0:
					t.Fatalf("it can be undone after %d writes, and not after %d", writes, beyond)
				}
			}
			if beyond < 6 {
				t.Errorf("it cannot be undone after %d writes, want that it can until the old claim goes", beyond)
			}
		})
	}
}

// Each run is killed at its first write, and comes further than the one before.
func TestMigrationThatIsKilledAtEachWriteComesToAnEnd(t *testing.T) {
	for name, d := range directions() {
		t.Run(name, func(t *testing.T) {
			const most = 50
			w := newWorld(t, d[0])
			runs := 0
			for w.migration(d[0], d[1], 1).Run(t.Context()) != nil {
				if runs++; runs > most {
					t.Fatalf("it has not come to an end after %d runs", runs)
				}
			}
			if pool, addresses := w.holds("cp"); pool != d[1].Name || addresses != 1 {
				t.Errorf("the machine is held by %s, and %d addresses exist", pool, addresses)
			}
		})
	}
}

// taken has the address of the machine be one that was taken: its claim, which is returned, is
// not made yet.
func (w *world) taken() *ipamv1.IPClaim {
	w.t.Helper()
	ctx := context.Background()
	key := types.NamespacedName{Namespace: "ns", Name: "cp-0"}
	claim := &ipamv1.IPClaim{}
	w.must(w.Client.Get(ctx, key, claim))
	claim.Finalizers = nil
	w.must(w.Update(ctx, claim))
	w.must(w.Client.Delete(ctx, claim))
	address := &ipamv1.IPAddress{}
	w.must(w.Client.Get(ctx, types.NamespacedName{Namespace: "ns", Name: "a-10-0-0-1"}, address))
	kube.SetAnnotation(address, ipam.RequestedByAnnotation, "owner")
	w.must(w.Update(ctx, address))
	claim.ResourceVersion, claim.Finalizers = "", []string{ipamv1.IPClaimFinalizer, ipam.InUseFinalizer}
	return claim
}

func TestMachineWhoseAddressWasTakenIsMovedWhenItHasItsClaim(t *testing.T) {
	d := directions()["metal3 to in-cluster"]
	w := newWorld(t, d[0])
	claim, writes := w.taken(), 0
	w.then = func() {
		// The pools are frozen and reserved by then, and the claim is waited for.
		if writes++; writes == 2 {
			w.must(w.Client.Create(t.Context(), claim))
		}
	}

	if err := w.migration(d[0], d[1], 1000).Run(t.Context()); err != nil {
		t.Fatal(err)
	}

	if pool, addresses := w.holds("cp"); pool != d[1].Name || addresses != 1 {
		t.Errorf("the machine is held by %s, and %d addresses exist", pool, addresses)
	}
}

func TestMachineWhoseAddressWasTakenIsNotMovedWithoutAClaim(t *testing.T) {
	d := directions()["metal3 to in-cluster"]
	w := newWorld(t, d[0])
	w.taken()

	err := w.migration(d[0], d[1], 1000).Run(t.Context())

	if err == nil || !strings.Contains(err.Error(), "not bound yet") {
		t.Errorf("got %v, want to be told what is waited for", err)
	}
	if pool, addresses := w.holds("cp"); pool != d[0].Name || addresses != 1 {
		t.Errorf("the machine is held by %s, and %d addresses exist", pool, addresses)
	}
}
