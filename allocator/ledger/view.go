package ledger

import (
	"net/netip"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// View is the account of one pool. It copies nothing: each question is answered by what is
// counted when it is asked, so that two of them may have answers of different moments.
type View struct {
	ledger *Ledger
	pool   Pool
}

var _ ipam.Used = View{}

// Used is the account of a pool; of one without a namespace, of its addresses in all. It is
// false while not all of its addresses are counted.
func (l *Ledger) Used(namespace string, pool ipam.PoolReference) (View, bool) {
	if l == nil {
		return View{}, false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	provider := l.providers.For(pool)
	twin := l.twin(provider)
	known := l.book(provider).followed.synced() && (twin == nil || twin.followed.synced())
	return View{l, Pool{namespace, pool}}, known
}

// read answers a question about the account.
func read[T any](v View, question func(*account) T) T {
	v.ledger.mu.RLock()
	defer v.ledger.mu.RUnlock()
	if a := v.ledger.accounts[v.pool]; a != nil {
		return question(a)
	}
	var nothing T
	return nothing
}

// Objects implements ipam.Used.
func (v View) Objects() int { return read(v, func(a *account) int { return a.objects }) }

// Has implements ipam.Used.
func (v View) Has(ip netip.Addr) bool {
	return read(v, func(a *account) bool { return a.addresses.has(ip) })
}

// CountIn implements ipam.Used. What it takes grows with the ranges of the set, and hardly
// with the addresses that there are.
func (v View) CountIn(set *netipx.IPSet) uint64 {
	return read(v, func(a *account) uint64 { return a.addresses.countIn(set) })
}

// Claims implements ipam.Used.
func (v View) Claims() int { return read(v, func(a *account) int { return len(a.claims) }) }

// HasClaim implements ipam.Used.
func (v View) HasClaim(claim types.NamespacedName) bool {
	return read(v, func(a *account) bool { return a.claims[claim] > 0 })
}

// Distinct is the number of addresses. Two objects of one address count once, and what is
// no address does not count.
func (v View) Distinct() int { return read(v, func(a *account) int { return a.addresses.distinct }) }

// Cooling is how many of the addresses are only kept from being handed out.
func (v View) Cooling() int { return read(v, func(a *account) int { return a.addresses.cooling }) }

// Odd is how many address objects count here that name another pool of the same name, or
// that hold no address in its usual form. Without any, the account has just what somebody
// finds who looks for the objects that name the pool.
func (v View) Odd() int { return read(v, func(a *account) int { return a.odd }) }

// NamedOtherwise implements ipam.Used.
func (v View) NamedOtherwise(prefix string) int {
	return read(v, func(a *account) int { return a.objects - a.twins - a.prefixes[prefix] })
}

// Twins implements ipam.Used.
func (v View) Twins() (int, bool) {
	count := read(v, func(a *account) int { return a.twins + a.twinClaims })
	v.ledger.mu.RLock()
	defer v.ledger.mu.RUnlock()
	twin := v.ledger.twin(v.ledger.providers.For(v.pool.PoolReference))
	return count, twin == nil || twin.followed.synced() && twin.followedClaims.synced()
}

// Client is a client that reads from a cache whose events feed the ledger, and that knows
// what is counted of it (ipam.Counter).
func (l *Ledger) Client(cached client.Client) client.Client {
	return counting{cached, l}
}

type counting struct {
	client.Client
	ledger *Ledger
}

// Used implements ipam.Counter.
func (c counting) Used(namespace string, pool ipam.PoolReference) (ipam.Used, bool) {
	return c.ledger.Used(namespace, pool)
}
