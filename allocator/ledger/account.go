package ledger

import (
	"k8s.io/apimachinery/pkg/types"
)

// account is what is known of one pool.
type account struct {
	addresses addresses
	// objects are the address objects, whatever they hold.
	objects int
	// odd are those that name another pool, or that are no address in its usual form.
	odd int
	// claims are the objects by the claim that they answer.
	claims map[types.NamespacedName]int
}

func newAccount() *account {
	return &account{claims: map[types.NamespacedName]int{}}
}

// count adds an address object in a namespace, which may name another pool of the same name;
// or with -1 takes it off.
func (a *account) count(namespace string, e entry, ofAnother bool, change int) {
	a.objects += change
	if ofAnother || !e.ip.IsValid() || e.ip.Is4In6() {
		a.odd += change
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
