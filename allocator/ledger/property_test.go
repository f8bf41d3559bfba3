package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metal3v1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// What random objects are made of. It is little, so that they meet.
var (
	namespaces = []string{"ns", "elsewhere"}
	poolNames  = []string{"pool", "pool2"}
	holders    = []string{"m", "n", "o"}
	texts      = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "10.9.0.1", "fd00::1", "fd00::2", "", "none", "::ffff:10.0.0.2", "fe80::1%eth0"}
	owners     = []ipam.Owner{anOwner, {UID: "other-uid"}, {}}
)

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }

// chance is true once in so often.
func chance(random *rand.Rand, often int) bool { return random.IntN(often) == 0 }

func references(name string) []ipam.PoolReference {
	return []ipam.PoolReference{metal3.PoolNamed(name), {APIGroup: inCluster.APIGroup, Kind: inCluster.Kind, Name: name}, shared(name)}
}

// randomObject is an object of any kind that the ledger follows, in any state.
func randomObject(random *rand.Rand) client.Object {
	meta := metav1.ObjectMeta{
		Namespace: pick(random, namespaces), Name: fmt.Sprintf("o%d", random.IntN(12)), UID: types.UID(fmt.Sprint(random.IntN(3))),
		Annotations: map[string]string{}, Labels: map[string]string{},
	}
	if chance(random, 4) {
		meta.DeletionTimestamp = new(metav1.Now())
	}
	if chance(random, 3) {
		meta.Annotations[ipam.ReleasedAtAnnotation] = "2026-01-01T00:00:00Z"
	}
	pool, text := pick(random, references(pick(random, poolNames))), pick(random, texts)
	switch random.IntN(6) {
	case 0:
		if chance(random, 2) {
			meta.Name = pool.Name + "-" + strings.NewReplacer(".", "-", ":", "-", "%", "-").Replace(text)
		}
		return takenOf(random, &metal3v1.IPAddress{ObjectMeta: meta, Spec: own(pool.Name, text).Spec})
	case 1:
		return &ipamv1.IPAddress{ObjectMeta: meta, Spec: other(pool, meta.Name, text).Spec}
	case 2:
		c := &metal3v1.IPClaim{ObjectMeta: meta}
		c.Spec.Pool.Name = pool.Name
		return claimOf(random, c)
	case 3:
		c := &ipamv1.IPAddressClaim{ObjectMeta: meta}
		c.Spec.PoolRef = ipamv1.IPPoolReference{APIGroup: pool.APIGroup, Kind: pool.Kind, Name: pool.Name}
		return claimOf(random, c)
	case 4:
		meta.Name = pick(random, holders)
		return &capi.VSphereMachine{ObjectMeta: meta}
	}
	meta.Name = pick(random, holders)
	return &capi.VSphereCluster{ObjectMeta: meta}
}

// takenOf puts the marks of one that was taken on an address.
func takenOf(random *rand.Rand, address client.Object) client.Object {
	annotations := address.GetAnnotations()
	annotations[pick(random, []string{ipam.MachineNameAnnotation, ipam.MachineNameAnnotation, "x"})] = pick(random, holders)
	annotations[pick(random, []string{ipam.RequestedByAnnotation, ipam.RequestedByAnnotation, "x"})] = ipam.RequestedBy(pick(random, owners))
	address.SetFinalizers([]string{pick(random, []string{ipam.InUseFinalizer, ipam.InUseFinalizer, "x/x"})})
	return address
}

// claimOf puts marks on a claim.
func claimOf(random *rand.Rand, claim client.Object) client.Object {
	annotations := claim.GetAnnotations()
	annotations[pick(random, []string{ipam.MachineNameAnnotation, ipam.ClusterNameAnnotation, "x"})] = pick(random, holders)
	annotations[pick(random, []string{ipam.RequestedByAnnotation, ipam.RequestedByAnnotation, "x"})] = ipam.RequestedBy(pick(random, owners))
	if chance(random, 4) {
		annotations[ipam.KeptAnnotation] = "x"
	}
	if chance(random, 4) {
		claim.SetLabels(map[string]string{ipam.SetAsideLabel: ""})
	}
	if chance(random, 4) {
		claim.SetOwnerReferences([]metav1.OwnerReference{{Kind: "VSphereMachine", Name: "m", UID: "m"}})
	}
	return claim
}

// change does one random thing, which is seen or not.
func (w *world) change(random *rand.Rand) {
	obj := randomObject(random)
	of := w.of(obj)
	switch random.IntN(12) {
	case 0, 1, 2, 3:
		for key := range of.there {
			of.drop(key)
			break
		}
	case 4:
		of.list(random)
		return
	default:
		of.put(obj)
	}
	if chance(random, 3) {
		return
	}
	// What is seen later is seen in no order.
	for _, key := range slices.Collect(mapKeys(of.there, of.known)) {
		if !chance(random, 3) {
			of.see(key)
		}
	}
}

func mapKeys(maps ...map[types.NamespacedName]client.Object) func(func(types.NamespacedName) bool) {
	return func(yield func(types.NamespacedName) bool) {
		seen := map[types.NamespacedName]bool{}
		for _, m := range maps {
			for key := range m {
				if !seen[key] && !yield(key) {
					return
				}
				seen[key] = true
			}
		}
	}
}

// counted is what somebody finds who lists the objects of a pool.
type counted struct {
	objects, twins, named, odd int
	cooling                    map[netip.Addr]bool
	claims                     map[types.NamespacedName]bool
}

// list counts what the informers know of a pool, one by one.
func (w *world) list(namespace string, pool ipam.PoolReference) counted {
	c := counted{cooling: map[netip.Addr]bool{}, claims: map[types.NamespacedName]bool{}}
	isMetal3 := pool == metal3.PoolNamed(pool.Name)
	in := func(obj client.Object) bool { return namespace == "" || obj.GetNamespace() == namespace }
	of := func(reference ipam.PoolReference, isOwn bool) bool {
		// metal3 goes by the name alone; but that is of one namespace.
		return reference == pool || isMetal3 && !isOwn && namespace != "" && reference.Name == pool.Name
	}
	for _, provider := range providers {
		isOwn := isMetal3 == (provider.Name() == "metal3")
		for _, obj := range w.addresses[provider.Name()].known {
			read := provider.ReadAddress(obj)
			if !in(obj) || !of(read.Pool, isOwn) {
				continue
			}
			c.objects++
			c.claims[types.NamespacedName{Namespace: obj.GetNamespace(), Name: read.Claim}] = true
			if !isOwn {
				c.twins++
			} else if isMetal3 && obj.GetName() == strings.TrimRight(pool.Name+"-"+strings.NewReplacer(".", "-", ":", "-").Replace(read.IP), "-") {
				c.named++
			}
			ip, err := netip.ParseAddr(read.IP)
			if err != nil || ip.Zone() != "" || ip.Is4In6() || read.Pool != pool {
				c.odd++
			}
			if err == nil && ip.Zone() == "" {
				cooling, known := c.cooling[ip]
				c.cooling[ip] = ipam.IsReleased(obj) && (cooling || !known)
			}
		}
		if isOwn || !isMetal3 {
			continue
		}
		for _, obj := range w.claims[provider.Name()].known {
			if namespace != "" && in(obj) && provider.ReadClaim(obj).Pool.Name == pool.Name {
				c.twins++
			}
		}
	}
	return c
}

// wantAsListed compares all that the ledger says of a pool with that.
func (w *world) wantAsListed(random *rand.Rand, namespace string, pool ipam.PoolReference) {
	w.t.Helper()
	want, got := w.list(namespace, pool), w.used(namespace, pool)
	cooling := 0
	for _, cools := range want.cooling {
		if cools {
			cooling++
		}
	}
	compare := func(what string, got, want int) {
		w.t.Helper()
		if got != want {
			w.t.Fatalf("%s of %s in %q: got %d, want %d", what, pool, namespace, got, want)
		}
	}
	compare("objects", got.Objects(), want.objects)
	compare("addresses", got.Distinct(), len(want.cooling))
	compare("cooling", got.Cooling(), cooling)
	compare("odd", got.Odd(), want.odd)
	compare("claims", got.Claims(), len(want.claims))
	if pool == metal3.PoolNamed(pool.Name) && namespace != "" {
		twins, _ := got.Twins()
		compare("twins", twins, want.twins)
		own := 0
		for _, obj := range w.addresses["metal3"].known {
			if obj.GetNamespace() == namespace && obj.(*metal3v1.IPAddress).Spec.Pool.Name == pool.Name {
				own++
			}
		}
		compare("named otherwise", got.NamedOtherwise(pool.Name), own-want.named)
	}
	for _, text := range texts {
		ip, err := netip.ParseAddr(text)
		if _, has := want.cooling[ip]; err == nil && got.Has(ip) != has {
			w.t.Fatalf("%s of %s in %q: got %t, want %t", ip, pool, namespace, !has, has)
		}
	}
	for _, space := range namespaces {
		for i := range 12 {
			claim := types.NamespacedName{Namespace: space, Name: fmt.Sprintf("o%d", i)}
			if got.HasClaim(claim) != want.claims[claim] {
				w.t.Fatalf("claim %s of %s in %q: got %t", claim, pool, namespace, !want.claims[claim])
			}
		}
	}
	set, in := randomSet(random), 0
	for ip := range want.cooling {
		if set.Contains(ip) {
			in++
		}
	}
	compare(fmt.Sprintf("in %v", set.Ranges()), int(got.CountIn(set)), in)
}

func randomSet(random *rand.Rand) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" && chance(random, 2) {
			builder.AddRange(netipx.IPRangeFrom(ip, ip.Next()))
		}
	}
	set, err := builder.IPSet()
	if err != nil {
		panic(err)
	}
	return set
}

// wantClaimsAsListed compares all that it says of claims.
func (w *world) wantClaimsAsListed(provider ipam.Provider, namespace, poolName string) {
	w.t.Helper()
	stored := func(obj client.Object) bool {
		h := ipam.HolderOf(obj)
		of := w.machines
		if h.Kind == ipam.OfCluster {
			of = w.clusters
		}
		return of.known[types.NamespacedName{Namespace: obj.GetNamespace(), Name: h.Name}] != nil
	}
	for _, pool := range references(poolName) {
		unstored, setAside, setAsideInAll := 0, 0, 0
		for _, obj := range w.claims[provider.Name()].known {
			if provider.ReadClaim(obj).Pool != pool {
				continue
			}
			isIn := obj.GetNamespace() == namespace
			if ipam.IsSetAside(obj) {
				setAsideInAll++
				if isIn {
					setAside++
				}
			}
			if isIn && ipam.UnadoptedBy(obj) != "" && !stored(obj) {
				unstored++
			}
		}
		for _, obj := range w.addresses[provider.Name()].known {
			if obj.GetNamespace() == namespace && provider.ReadAddress(obj).Pool == pool && ipam.IsTaken(obj) && !stored(obj) {
				unstored++
			}
		}
		gotUnstored, _ := w.ledger.Unstored(provider, namespace, pool)
		gotSetAside, _ := w.ledger.SetAside(provider, namespace, pool)
		gotInAll, _ := w.ledger.SetAside(provider, "", pool)
		if gotUnstored != unstored || gotSetAside != setAside || gotInAll != setAsideInAll {
			w.t.Fatalf("%s in %q: got %d unstored, %d and %d set aside; want %d, %d and %d", pool, namespace, gotUnstored, gotSetAside, gotInAll, unstored, setAside, setAsideInAll)
		}
	}
	for _, owner := range owners {
		var want []string
		for key, obj := range w.claims[provider.Name()].known {
			_, kept := obj.GetAnnotations()[ipam.KeptAnnotation]
			if key.Namespace == namespace && ipam.UnadoptedBy(obj) == ipam.RequestedBy(owner) && (kept || !stored(obj)) {
				want = append(want, key.Name)
			}
		}
		slices.Sort(want)
		if got, _ := w.ledger.Requested(provider, namespace, owner); !slices.Equal(got, want) {
			w.t.Fatalf("requested by %v: got %v, want %v", owner, got, want)
		}
		var taken []string
		for key, obj := range w.addresses[provider.Name()].known {
			if key.Namespace == namespace && ipam.TakenFor(obj) == ipam.RequestedBy(owner) && !stored(obj) {
				taken = append(taken, key.Name)
			}
		}
		slices.Sort(taken)
		if got, _ := w.ledger.Taken(provider, namespace, owner); !slices.Equal(got, taken) {
			w.t.Fatalf("taken for %v: got %v, want %v", owner, got, taken)
		}
	}
}

// wantPoolsAsListed compares what metal3's provider says of a pool by counts and by lists.
func (w *world) wantPoolsAsListed(pool *metal3v1.IPPool) {
	w.t.Helper()
	machine := ipam.Machine{NamespacedName: types.NamespacedName{Namespace: pool.Namespace, Name: "m"}}
	want := ipam.Want{Pool: metal3.PoolNamed(pool.Name)}
	byList, err := providers.Pool(w.t.Context(), w, machine, want)
	if err != nil {
		w.t.Fatal(err)
	}
	byCount, err := providers.Pool(w.t.Context(), w.ledger.Client(w), machine, want)
	if err != nil {
		w.t.Fatal(err)
	}
	// More than there can be: of fewer it may say no more than that they fit.
	claims := make([]string, 100)
	free, needed := byList.Free(claims)
	if gotFree, gotNeeded := byCount.Free(claims); gotFree != free || gotNeeded != needed {
		w.t.Fatalf("%s: %d free and %d needed, want %d and %d", pool.Name, gotFree, gotNeeded, free, needed)
	}
	for _, claim := range []string{"reserved", "any"} {
		for _, text := range texts[:5] {
			in, taken := byList.Offers(addr(text), claim)
			if gotIn, gotTaken := byCount.Offers(addr(text), claim); gotIn != in || gotTaken != taken && in {
				w.t.Fatalf("%s for claim %q: in %t, taken %t; want %t and %t", text, claim, gotIn, gotTaken, in, taken)
			}
		}
	}
}

// metal3Pool has some of the addresses of texts.
func metal3Pool(namespace, name string) *metal3v1.IPPool {
	pool := &metal3v1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	pool.Spec.NamePrefix = name
	start, end := metal3v1.IPAddressStr("10.0.0.1"), metal3v1.IPAddressStr("10.0.0.9")
	lone := metal3v1.IPAddressStr("10.0.1.1")
	pool.Spec.Pools = []metal3v1.Pool{{Start: &start, End: &end}, {Start: &lone, End: &lone}}
	pool.Spec.PreAllocations = map[string]metal3v1.IPAddressStr{"reserved": "10.0.0.3"}
	return pool
}

func TestLedgerCountsWhatAListWouldFind(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			w := newWorld(t)
			for range 20 {
				obj := randomObject(random)
				w.of(obj).known[client.ObjectKeyFromObject(obj)] = obj
				w.of(obj).put(obj)
			}
			w.begin(all)
			for _, namespace := range namespaces {
				for _, name := range poolNames {
					w.pools = append(w.pools, metal3Pool(namespace, name))
				}
			}
			for range 150 {
				w.change(random)
				for _, namespace := range append(namespaces, "") {
					for _, pool := range append(references("pool"), references("pool2")...) {
						if namespace != "" || pool != metal3.PoolNamed(pool.Name) {
							w.wantAsListed(random, namespace, pool)
						}
					}
				}
				for _, provider := range providers {
					w.wantClaimsAsListed(provider, pick(random, namespaces), pick(random, poolNames))
				}
				w.wantPoolsAsListed(pick(random, w.pools).(*metal3v1.IPPool))
			}
		})
	}
}
