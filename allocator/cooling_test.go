package allocator

import (
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// keptAddress is one that an earlier machine cp-0 left, and that answers its claim; a
// provider that knows claims by their names gives it to the next one.
func keptAddress() *ipamv1.IPAddress {
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "address", UID: "address",
		Labels:          map[string]string{ipam.MachineLabel: ipam.MachineLabelValue("cp-0")},
		OwnerReferences: []metav1.OwnerReference{{Kind: "IPClaim", Name: "cp-0-0", UID: "claim"}},
	}}
	address.Spec.Address, address.Spec.Claim.Name, address.Spec.Pool.Name = "10.0.0.1", "cp-0-0", "pool"
	ipam.CoolAddress(address, ipam.Holder{Name: "cp-0"}, time.Now())
	return address
}

// cooling is an Allocator over these objects, and the allocation of a request.
func cooling(t *testing.T, objects ...client.Object) (*Allocator, *allocation) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := ipamv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...)
	for _, source := range New(ipam.Providers{metal3.Provider{}}, nil, nil).Sources() {
		if _, isAddress := source.Object.(*ipamv1.IPAddress); !isAddress {
			continue
		}
		for name, index := range source.Indexes {
			builder.WithIndex(source.Object, name, index)
		}
	}
	c := builder.Build()
	a := New(ipam.Providers{metal3.Provider{}}, c, c)
	a.ReuseAfter = 5 * time.Minute
	al := a.attempt(requestOfAnEarlierTry()).allocations[0]
	al.want, al.provider = ipam.Want{Pool: metal3.PoolNamed("pool")}, metal3.Provider{}
	al.use("cp-0-0")
	return a, al
}

const keptFor5m = `claim "cp-0-0" of IPPool "pool" in namespace "ns" is kept for 5m after its machine went: retry then, or give the machine another name`

func expectCoolingDown(t *testing.T, err error, message string) {
	t.Helper()
	refusal, refused := ipam.AsRefusal(err)
	if !refused || refusal.Reason != ipam.CoolingDown || refusal.Message != message {
		t.Errorf("got %v, want %s: %s", err, ipam.CoolingDown, message)
	}
}

func TestClaimThatCoolsDownIsNotUsedAgain(t *testing.T) {
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0"}}
	claim.Spec.Pool.Name = "pool"
	ipam.CoolClaim(claim, cp0(), time.Now())
	a, al := cooling(t, claim)

	_, err := a.reuse(t.Context(), al)

	expectCoolingDown(t, err, keptFor5m)
	al.want.Pool = metal3.PoolNamed("other")
	_, err = a.reuse(t.Context(), al)
	expectCoolingDown(t, err, strings.Replace(keptFor5m, "5m", "a while", 1))
}

// Its claim is gone, and the provider gives it to the next claim of the name.
func TestAddressThatCoolsDownIsNotGivenAlthoughItsClaimIsGone(t *testing.T) {
	address := keptAddress()
	a, al := cooling(t, address)

	err := a.protect(t.Context(), al, metal3.Provider{}.ReadAddress(address))

	expectCoolingDown(t, err, keptFor5m)
}

// Nothing else tells it from an address that the request has protected.
func TestAddressThatCoolsDownStaysProtectedWhenAClaimIsTakenBack(t *testing.T) {
	address := keptAddress()
	a, al := cooling(t, address)
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "claim"}}
	ipam.Mark(claim, al.Machine)

	if err := a.unprotect(t.Context(), metal3.Provider{}, metal3.Provider{}.ReadClaim(claim), ""); err != nil {
		t.Fatal(err)
	}

	if err := a.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !ipam.IsProtected(address) || !ipam.IsReleased(address) {
		t.Errorf("it has the finalizers %v and the annotations %v, error %v", address.Finalizers, address.Annotations, err)
	}
}

func TestMachineDoesNotHoldAnAddressOfItsNameThatCoolsDown(t *testing.T) {
	a, _ := cooling(t, keptAddress())

	held, err := a.Held(t.Context(), cp0(), "uid")

	if err != nil || len(held) > 0 {
		t.Errorf("got %v and error %v, want nothing", held, err)
	}
}

func TestExhaustedPoolSaysThatItsAddressesCoolDown(t *testing.T) {
	pool := ipam.Pool{Reference: metal3.PoolNamed("pool"), Total: 6, Free: func([]string) (uint64, uint64) { return 0, 2 }, Object: &ipamv1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Annotations: map[string]string{ipam.ReuseAfterAnnotation: "5m"}},
	}}
	const counted = `IPPool "pool" in namespace "ns" is exhausted: 6 of 6 addresses in use and the machine needs 2; addresses cool down for 5m; add addresses to the pool or delete a machine that holds one`
	if got := exhausted(pool, 0, 2).Error(); got != counted {
		t.Errorf("got %q, want %q", got, counted)
	}
	pool.Free = nil
	const uncounted = `IPPool "pool" in namespace "ns" is exhausted; addresses cool down for 5m: add addresses to the pool or delete a machine that holds one`
	if got := exhausted(pool, 0, 1).Error(); got != uncounted {
		t.Errorf("got %q, want %q", got, uncounted)
	}
}

// The provider may bind the next claim of the name to it, or have none to give while it
// is there.
func TestClaimOnAnAddressThatCoolsDownIsRefusedAsSuch(t *testing.T) {
	address := keptAddress()
	a, al := cooling(t, address)
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "claim"}}
	claim.Spec.Pool.Name = "pool"
	claim.Status.Address = &corev1.ObjectReference{Name: "address"}

	_, err := a.answer(t.Context(), al, metal3.Provider{}.ReadClaim(claim))
	expectCoolingDown(t, err, keptFor5m)

	going := keptAddress()
	going.Name, going.DeletionTimestamp = "cp-0-0", &metav1.Time{Time: time.Now()}
	a, al = cooling(t, going)
	claim.Status.Address = nil
	_, err = a.answer(t.Context(), al, metal3.Provider{}.ReadClaim(claim))
	expectCoolingDown(t, err, keptFor5m)
}

// A move and a backup may bring a claim before its pool.
func TestCoolDownWaitsForAPoolThatIsMissing(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		pool    []client.Object
		seen    time.Duration
		going   bool
		cooling bool
		over    bool
		left    time.Duration
	}{
		"there is none":                         {cooling: true, left: coolingCheck},
		"there is none for long":                {cooling: true, seen: PoolPatience - time.Second, left: time.Second},
		"there is none for too long":            {cooling: true, seen: PoolPatience, left: 0},
		"there is none, and the claim goes":     {cooling: true, going: true, over: true},
		"there is none, and it did not cool":    {over: true},
		"it is there, and says for how long":    {cooling: true, pool: []client.Object{coolingPool("5m")}, left: 4 * time.Minute},
		"it is there, and that was long before": {cooling: true, pool: []client.Object{coolingPool("30s")}, left: 0},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0"}}
			claim.Spec.Pool.Name = "pool"
			ipam.CoolClaim(claim, cp0(), now.Add(-time.Minute))
			if test.going {
				claim.DeletionTimestamp = &metav1.Time{Time: now}
			}
			a, _ := cooling(t, test.pool...)
			read := metal3.Provider{}.ReadClaim(claim)
			pair := Pair{Claim: &read}
			c := Cooler{Providers: ipam.Providers{metal3.Provider{}}, Live: a.live, Pools: a.live, ReuseAfter: 0}

			d, err := c.Read(t.Context(), "ns", pair, test.cooling)

			if err != nil || d.Over != test.over {
				t.Fatalf("got %+v and error %v, want it over: %t", d, err, test.over)
			}
			if got := d.Left(pair, now.Add(-test.seen), now); got != test.left {
				t.Errorf("%s are left, want %s", got, test.left)
			}
		})
	}
}

func coolingPool(after string) client.Object {
	pool := poolThatCools(after)
	pool.Namespace, pool.Name = "ns", "pool"
	return pool
}
