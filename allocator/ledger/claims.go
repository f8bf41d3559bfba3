package ledger

import (
	"context"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
)

// claims is what is counted of claims, and of addresses that were taken before their claims.
// Those that are adopted are most, and are not kept.
type claims struct {
	known map[claimID]claim
	// waiting are the claims that wait, by whom they were made for, and stored are those
	// that exist of whom claims may be made for.
	waiting map[holder]map[claimID]struct{}
	stored  map[holder]struct{}
	// unstored are those that wait for what is not stored, by their pool.
	unstored map[poolOfAPI]int
	// requested are those by their requester, with those that were kept for it.
	requested map[requester]map[string]struct{}
	// setAside are those that only keep an address from being handed out.
	setAside map[poolOfAPI]int
}

// claimID tells claims apart: those of two claim APIs may share a name, and so may an address
// that was taken.
type claimID struct {
	provider string
	taken    bool
	types.NamespacedName
}

// holder is whom a claim was made for.
type holder struct {
	namespace string
	ipam.Holder
}

// poolOfAPI is a pool, as it is named by claims of one API.
type poolOfAPI struct {
	provider string
	Pool
}

// requester is on whose behalf claims are made, see ipam.RequestedByAnnotation.
type requester struct {
	provider, namespace, value string
	// taken says that it has addresses that were taken, and no claims.
	taken bool
}

// claim is what of a claim is counted.
type claim struct {
	pool ipam.PoolReference
	// requester and holder are of one that waits.
	requester      string
	holder         holder
	kept, setAside bool
}

// counts tells whether a claim has to be known at all.
func (c claim) counts() bool { return c.requester != "" || c.setAside }

func newClaims() claims {
	return claims{
		known: map[claimID]claim{}, waiting: map[holder]map[claimID]struct{}{}, stored: map[holder]struct{}{},
		unstored: map[poolOfAPI]int{}, requested: map[requester]map[string]struct{}{}, setAside: map[poolOfAPI]int{},
	}
}

// holders follows the objects that claims are made for.
func (l *Ledger) holders(kind ipam.HolderKind, f *follow) func(context.Context, cache.Informer) error {
	of := func(key types.NamespacedName) holder {
		return holder{key.Namespace, ipam.Holder{Kind: kind, Name: key.Name}}
	}
	return informers.Follow(
		func(obj client.Object) { l.store(of(client.ObjectKeyFromObject(obj)), true) },
		func(key types.NamespacedName) { l.store(of(key), false) },
		l.started(f))
}

// store notes that somebody for whom claims may be made exists, or does not.
func (l *Ledger) store(h holder, exists bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.claims
	if _, known := c.stored[h]; known == exists {
		return
	}
	for id := range c.waiting[h] {
		c.count(id, c.known[id], -1)
	}
	if exists {
		c.stored[h] = struct{}{}
	} else {
		delete(c.stored, h)
	}
	for id := range c.waiting[h] {
		c.count(id, c.known[id], 1)
	}
}

func (l *Ledger) putClaim(b *book, obj client.Object) {
	read := b.ReadClaim(obj)
	now := claim{pool: read.Pool, requester: ipam.UnadoptedBy(obj), setAside: ipam.IsSetAside(obj)}
	if now.requester != "" {
		now.holder = holder{obj.GetNamespace(), ipam.HolderOf(obj)}
		_, now.kept = obj.GetAnnotations()[ipam.KeptAnnotation]
	}
	l.setClaim(b, client.ObjectKeyFromObject(obj), now)
}

func (l *Ledger) dropClaim(b *book, key types.NamespacedName) {
	l.setClaim(b, key, claim{})
}

func (l *Ledger) setClaim(b *book, key types.NamespacedName, now claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.countTwinClaim(b, key, now)
	l.set(claimID{b.Name(), false, key}, now)
}

// putTaken counts an address that was taken before its claim, which waits like a claim.
func (l *Ledger) putTaken(b *book, obj client.Object, pool ipam.PoolReference) {
	var now claim
	if requester := ipam.TakenFor(obj); requester != "" {
		now = claim{pool: pool, requester: requester, holder: holder{obj.GetNamespace(), ipam.HolderOf(obj)}}
	}
	l.set(claimID{b.Name(), true, client.ObjectKeyFromObject(obj)}, now)
}

// set counts a claim as it is now, in place of what was there under its name.
func (l *Ledger) set(id claimID, now claim) {
	if before, known := l.claims.known[id]; known {
		if before == now {
			return
		}
		delete(l.claims.known, id)
		l.claims.move(id, before, -1)
	}
	if now.counts() {
		l.claims.known[id] = now
		l.claims.move(id, now, 1)
	}
}

// countTwinClaim counts a claim in the accounts of the pools of other providers that it
// names.
func (l *Ledger) countTwinClaim(b *book, key types.NamespacedName, now claim) {
	before, known := b.claimed[key]
	if before == now.pool.Name {
		return
	}
	for _, other := range b.twinOf {
		if known {
			l.countTwin(Pool{key.Namespace, other.ByName(before)}, -1)
		}
		if now.pool.Name != "" {
			l.countTwin(Pool{key.Namespace, other.ByName(now.pool.Name)}, 1)
		}
	}
	delete(b.claimed, key)
	if now.pool.Name != "" && len(b.twinOf) > 0 {
		b.claimed[key] = now.pool.Name
	}
}

func (l *Ledger) countTwin(pool Pool, change int) {
	a := l.account(pool)
	a.twinClaims += change
	l.forgetEmpty(pool, a)
}

// move counts a claim, and has it found by whom it was made for; or with -1 the opposite.
func (c *claims) move(id claimID, what claim, change int) {
	c.count(id, what, change)
	if what.requester == "" {
		return
	}
	put(c.waiting, what.holder, id, change > 0)
}

// count counts a claim by what is stored now.
func (c *claims) count(id claimID, what claim, change int) {
	if what.setAside {
		for _, namespace := range []string{id.Namespace, ""} {
			add(c.setAside, poolOfAPI{id.provider, Pool{namespace, what.pool}}, change)
		}
	}
	if what.requester == "" {
		return
	}
	_, stored := c.stored[what.holder]
	if !stored {
		add(c.unstored, poolOfAPI{id.provider, Pool{id.Namespace, what.pool}}, change)
	}
	if !stored || what.kept {
		put(c.requested, requester{id.provider, id.Namespace, what.requester, id.taken}, id.Name, change > 0)
	}
}

// put puts a value into a set of a map of sets, or takes it out.
func put[K, V comparable](sets map[K]map[V]struct{}, key K, value V, in bool) {
	if !in {
		if delete(sets[key], value); len(sets[key]) == 0 {
			delete(sets, key)
		}
		return
	}
	if sets[key] == nil {
		sets[key] = map[V]struct{}{}
	}
	sets[key][value] = struct{}{}
}

// Unstored is how many claims of a namespace on a pool no machine has adopted, and have none
// that could, with the addresses that were taken before their claims. It is false while not
// all of them are counted.
func (l *Ledger) Unstored(provider ipam.Provider, namespace string, pool ipam.PoolReference) (int, bool) {
	if l == nil {
		return 0, false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.claims.unstored[poolOfAPI{provider.Name(), Pool{namespace, pool}}], l.knowsUnstored(provider) && l.book(provider).followed.synced()
}

func (l *Ledger) knowsUnstored(provider ipam.Provider) bool {
	return l.book(provider).followedClaims.synced() && l.machines.synced() && l.clusters.synced()
}

// Requested are the names of the claims of a namespace that were made for an owner, and that
// it may have to be told of: those that no machine has adopted, and have none that could,
// and those that were kept for it. It is false while not all of them are counted.
func (l *Ledger) Requested(provider ipam.Provider, namespace string, owner ipam.Owner) ([]string, bool) {
	if l == nil {
		return nil, false
	}
	return l.requested(requester{provider.Name(), namespace, ipam.RequestedBy(owner), false}), l.knowsUnstored(provider)
}

// Taken are likewise the names of the addresses that were taken for an owner before their
// claims.
func (l *Ledger) Taken(provider ipam.Provider, namespace string, owner ipam.Owner) ([]string, bool) {
	if l == nil {
		return nil, false
	}
	return l.requested(requester{provider.Name(), namespace, ipam.RequestedBy(owner), true}), l.book(provider).followed.synced() && l.machines.synced()
}

func (l *Ledger) requested(by requester) []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Sorted(maps.Keys(l.claims.requested[by]))
}

// SetAside is how many addresses of a pool are set aside; of one without a namespace, in
// all. It is false while not all of them are counted.
func (l *Ledger) SetAside(provider ipam.Provider, namespace string, pool ipam.PoolReference) (int, bool) {
	if l == nil {
		return 0, false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.claims.setAside[poolOfAPI{provider.Name(), Pool{namespace, pool}}], l.book(provider).followedClaims.synced()
}
