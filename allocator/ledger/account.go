package ledger

import (
	"k8s.io/apimachinery/pkg/types"
)

// account is what is known of one pool.
type account struct {
	addresses addresses
	// objects are the address objects, whatever they hold, and twins those of them that
	// are of another claim API than the pool's.
	objects, twins int
	// odd are those that name another pool, or that are no address in its usual form.
	odd int
	// prefixes are the objects of the pool's own API by the prefix of their names.
	prefixes map[string]int
	// claims are the objects by the claim that they answer.
	claims map[types.NamespacedName]int
	// twinClaims are the claims of another API that name the pool.
	twinClaims int
}

func newAccount() *account {
	return &account{prefixes: map[string]int{}, claims: map[types.NamespacedName]int{}}
}

func (a *account) isEmpty() bool { return a.objects == 0 && a.twinClaims == 0 }

// standing is what an address object is to an account: a twin, and one that names another
// pool of the same name.
type standing struct{ twin, named bool }

// count adds an address object in a namespace, or with -1 takes it off.
func (a *account) count(namespace string, e entry, as standing, change int) {
	a.objects += change
	if as.named || !e.ip.IsValid() || e.ip.Is4In6() {
		a.odd += change
	}
	if as.twin {
		a.twins += change
	} else {
		add(a.prefixes, e.prefix, change)
	}
	add(a.claims, types.NamespacedName{Namespace: namespace, Name: e.claim}, change)
	if e.ip.IsValid() {
		a.addresses.add(e.ip, e.cooling, change)
	}
}

// add changes a count, and forgets it when nothing is left.
func add[K comparable](counts map[K]int, key K, change int) {
	if counts[key] += change; counts[key] <= 0 {
		delete(counts, key)
	}
}
