package ledger

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
)

// Ledger counts the addresses and claims of all pools. One that is nil knows nothing.
type Ledger struct {
	providers ipam.Providers

	mu       sync.RWMutex
	books    []*book
	accounts map[Pool]*account
	claims   claims
	// machines and clusters tell whether those are known that addresses are claimed for.
	machines, clusters follow
}

// Pool is a pool in a namespace; one without a namespace is in all.
type Pool struct {
	Namespace string
	ipam.PoolReference
}

// follow tells whether all objects of a kind that there were are counted.
type follow struct {
	hasSynced func() bool
	// seen spares those who create machines the locks of the informer.
	seen atomic.Bool
}

// synced tells that: once it is so, it stays so.
func (f *follow) synced() bool {
	if !f.seen.Load() && f.hasSynced != nil && f.hasSynced() {
		f.seen.Store(true)
	}
	return f.seen.Load()
}

// book is what is known of one claim API.
type book struct {
	ipam.Provider
	addresses map[types.NamespacedName]entry
	// claimed are the names of the pools that claims name, where they may be a twin's.
	claimed map[types.NamespacedName]string
	// shared says that pools of this API may be of all namespaces.
	shared bool
	// twinOf are the providers that take addresses of this API to be of their own pools.
	twinOf []ipam.Shorthand
	// followed is for the addresses, and followedClaims for the claims.
	followed, followedClaims follow
}

// entry is what of an address object is counted.
type entry struct {
	pool    ipam.PoolReference
	claim   string
	ip      netip.Addr
	cooling bool
	// prefix is that of its name, see ipam.Naming.
	prefix string
}

// unnamed is the prefix of an address object that is not named by its address. No name
// begins like that.
const unnamed = "/"

// New makes a Ledger, whose Sources must be started: until then it knows nothing.
func New(providers ipam.Providers) *Ledger {
	l := &Ledger{providers: providers, accounts: map[Pool]*account{}, claims: newClaims()}
	for _, provider := range providers {
		l.books = append(l.books, &book{
			Provider: provider, shared: isShared(provider), addresses: map[types.NamespacedName]entry{}, claimed: map[types.NamespacedName]string{},
		})
	}
	for _, provider := range providers {
		if twin, short := l.twin(provider), shorthand(provider); twin != nil && short != nil {
			twin.twinOf = append(twin.twinOf, short)
		}
	}
	return l
}

// isShared tells whether a provider may have pools of all namespaces. One that does not say
// may.
func isShared(provider ipam.Provider) bool {
	short := shorthand(provider)
	if short == nil {
		return true
	}
	_, shared := short.Shared("")
	return shared
}

func shorthand(provider ipam.Provider) ipam.Shorthand {
	short, _ := provider.(ipam.Shorthand)
	return short
}

// twin is the book of the other claim API that a provider's controller serves, nil if it
// serves none.
func (l *Ledger) twin(provider ipam.Provider) *book {
	twinned, ok := provider.(ipam.Twinned)
	if !ok {
		return nil
	}
	other := l.providers.OfAddress(ipam.EmptyAddress(twinned.Twin()))
	if other.Name() == provider.Name() {
		// Nobody here has the other one.
		return nil
	}
	return l.book(other)
}

func (l *Ledger) book(provider ipam.Provider) *book {
	i := slices.IndexFunc(l.books, func(b *book) bool { return b.Name() == provider.Name() })
	return l.books[i]
}

// Sources are the kinds that the ledger counts.
func (l *Ledger) Sources() []informers.Source {
	sources := []informers.Source{
		{Object: &capi.VSphereMachine{}, Started: l.holders(ipam.OfMachine, &l.machines)},
		{Object: &capi.VSphereCluster{}, Started: l.holders(ipam.OfCluster, &l.clusters)},
	}
	for _, b := range l.books {
		claim, address := b.Kinds()
		sources = append(sources,
			informers.Source{Object: address, Started: informers.Follow(
				func(obj client.Object) { l.putAddress(b, obj) },
				func(key types.NamespacedName) { l.dropAddress(b, key) },
				l.started(&b.followed))},
			informers.Source{Object: claim, Started: informers.Follow(
				func(obj client.Object) { l.putClaim(b, obj) },
				func(key types.NamespacedName) { l.dropClaim(b, key) },
				l.started(&b.followedClaims))})
	}
	return sources
}

// started notes what tells whether a kind is counted.
func (l *Ledger) started(f *follow) func(hasSynced func() bool) {
	return func(hasSynced func() bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		f.hasSynced = hasSynced
	}
}

// putAddress counts an address as it is now, in place of what was there under its name:
// an earlier state of it, or another object.
func (l *Ledger) putAddress(b *book, obj client.Object) {
	read := b.ReadAddress(obj)
	now := entry{pool: read.Pool, claim: read.Claim, ip: parse(read.IP), cooling: ipam.IsReleased(obj)}
	if naming, ok := b.Provider.(ipam.Naming); ok {
		if now.prefix, ok = naming.NamePrefix(read); !ok {
			now.prefix = unnamed
		}
	}
	key := client.ObjectKeyFromObject(obj)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putTaken(b, obj, read.Pool)
	before, known := b.addresses[key]
	if known && before == now {
		return
	}
	if known {
		l.count(b, key.Namespace, before, -1)
	}
	b.addresses[key] = now
	l.count(b, key.Namespace, now, 1)
}

func (l *Ledger) dropAddress(b *book, key types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(claimID{b.Name(), true, key}, claim{})
	if before, known := b.addresses[key]; known {
		delete(b.addresses, key)
		l.count(b, key.Namespace, before, -1)
	}
}

// parse is an address as providers compare them, invalid if it is none. One with a zone is
// in no pool.
func parse(text string) netip.Addr {
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" {
		return netip.Addr{}
	}
	return ip
}

// count adds an address to the accounts that it is in, or with -1 takes it off.
func (l *Ledger) count(b *book, namespace string, e entry, change int) {
	own := Pool{namespace, e.pool}
	as := standing{twin: l.providers.For(e.pool).Name() != b.Name()}
	l.countIn(own, namespace, counted{e, as}, change)
	if b.shared {
		l.countIn(Pool{PoolReference: e.pool}, namespace, counted{e, as}, change)
	}
	for _, other := range b.twinOf {
		if taken := (Pool{namespace, other.ByName(e.pool.Name)}); taken != own {
			l.countIn(taken, namespace, counted{e, standing{twin: true, named: true}}, change)
		}
	}
}

// counted is an address object, and what it is to an account.
type counted struct {
	entry
	standing
}

func (l *Ledger) countIn(pool Pool, namespace string, what counted, change int) {
	a := l.account(pool)
	a.count(namespace, what.entry, what.standing, change)
	l.forgetEmpty(pool, a)
}

// account is that of a pool, which is begun if there is none.
func (l *Ledger) account(pool Pool) *account {
	a := l.accounts[pool]
	if a == nil {
		a = newAccount()
		l.accounts[pool] = a
	}
	return a
}

func (l *Ledger) forgetEmpty(pool Pool, a *account) {
	if a.isEmpty() {
		delete(l.accounts, pool)
	}
}
