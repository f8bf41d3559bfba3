package allocator

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/ipam"
)

// Request is what one admission request asks of the allocator.
type Request struct {
	// Stamp is put on every claim that the request uses. Its time is that of
	// this very try, so that a request delivered twice does not mistake the
	// other's claim for its own.
	Stamp   ipam.Stamp
	Machine ipam.Machine
	// UID is that of the machine, if it is stored already: its claims are its own from
	// their first moment. It is empty at admission.
	UID   types.UID
	Owner ipam.Owner
	// Asks are served in this order.
	Asks []ipam.Ask
}

// Attempt is a request that was served, or that failed on the way. The claims that
// it used are known to it alone, so that it is what TakeBack is given.
type Attempt struct {
	// Bindings are the request's, one for each ask, if it was served.
	Bindings []ipam.Binding
	// Warnings tell of pools that were named and that others were chosen in place of.
	Warnings []string

	allocations []*allocation
	// claiming says that the first claim is, or may be, made: what was chosen stays.
	claiming bool
}

// allocation is one ask of a request on its way to a binding: planned, claimed,
// waited for, accepted, or taken back.
type allocation struct {
	*Request
	// want has the pool that was chosen last.
	want     ipam.Want
	provider ipam.Provider
	// pool is what plan has read last.
	pool ipam.Pool
	// meant are the pools that the choices name, each by what it was resolved to.
	meant map[ipam.PoolReference]candidate
	// kept are claims that were kept for the owner, and for such a slot.
	kept []ipam.Claim
	// claim is the name of the claim: of the one that is used, or of the one that is
	// tried first.
	claim string
	// isNew says that there was no claim when the pool was chosen.
	isNew bool
	// used says that the claim of that name is, or may be, the request's.
	used bool
	// late says that the claim was made, and not bound in time.
	late bool
	// isTaken says that the address of an earlier request for the machine was there when the
	// pool was chosen, and no claim: see take.
	isTaken bool
	// took is the name of the address object that this request took, or may have.
	took string
}

// attempt is a request for which nothing is chosen, and nothing claimed, yet.
func (a *Allocator) attempt(req Request) *Attempt {
	attempt := &Attempt{}
	for _, ask := range req.Asks {
		al := &allocation{Request: &req, want: ipam.Want{Ask: ask}, meant: map[ipam.PoolReference]candidate{}}
		al.forgetClaim()
		attempt.allocations = append(attempt.allocations, al)
	}
	return attempt
}

// startAnew forgets the claim that was used, and those that were kept: their turn is over.
func (al *allocation) startAnew() {
	al.forgetClaim()
	al.kept = nil
}

// forgetClaim has the allocation begin with the first name that its claim may have.
func (al *allocation) forgetClaim() {
	al.claim, al.used = al.Machine.Holder().ClaimName(al.want.Slot(), 1), false
}

// use has the allocation go on with the claim of this name.
func (al *allocation) use(claim string) { al.claim, al.used = claim, true }

// claimKey is where the claim is.
func (al *allocation) claimKey() types.NamespacedName {
	return types.NamespacedName{Namespace: al.Machine.Namespace, Name: al.claim}
}

// claimSpec is what the claim is to say.
func (al *allocation) claimSpec() ipam.ClaimSpec {
	return ipam.ClaimSpec{IP: al.want.IP, Name: al.claim, Machine: al.Machine, Pool: al.want.Pool, Host: al.want.Host, PoolObject: al.pool.Object}
}

// poolName is the pool in a sentence.
func (al *allocation) poolName() string { return al.pool.Reference.In(al.pool.GetNamespace()) }

// noteKept has the allocations that a claim was kept for know of it. One that has failed
// meanwhile is no reason to prefer its pool to others.
func (t *Attempt) noteKept(claim ipam.Claim) {
	if claim.Failure != "" && claim.Address == "" {
		return
	}
	slot := claim.GetAnnotations()[ipam.DeviceAnnotation]
	for _, al := range t.allocations {
		if al.want.Slot().String() == slot {
			al.kept = append(al.kept, claim)
		}
	}
}

// byPool are the allocations, one for each pool that was chosen, in the order of the
// pools' names.
func (t *Attempt) byPool() []*allocation {
	var distinct []*allocation
	for _, al := range t.allocations {
		if !slices.ContainsFunc(distinct, func(other *allocation) bool { return other.want.Pool == al.want.Pool }) {
			distinct = append(distinct, al)
		}
	}
	slices.SortFunc(distinct, func(a, b *allocation) int { return strings.Compare(a.want.Pool.String(), b.want.Pool.String()) })
	return distinct
}
