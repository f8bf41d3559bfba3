package allocator

import (
	"slices"
	"strconv"

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
	// Wants are served in this order.
	Wants []ipam.Want
}

// Attempt is a request that was served, or that failed on the way. The claims that
// it used are known to it alone, so that it is what TakeBack is given.
type Attempt struct {
	// Bindings are the request's, one for each want, if it was served.
	Bindings []ipam.Binding

	allocations []*allocation
}

// allocation is one want of a request on its way to a binding: planned, claimed,
// waited for, accepted, or taken back.
type allocation struct {
	*Request
	want     ipam.Want
	provider ipam.Provider
	// pool is what plan has read last.
	pool ipam.Pool
	// claim is the name of the claim: of the one that is used, or of the one that is
	// tried first.
	claim string
	// used says that the claim of that name is, or may be, the request's.
	used bool
	// late says that the claim was made, and not bound in time.
	late bool
}

// attempt is a request for which nothing is claimed yet.
func (a *Allocator) attempt(req Request) *Attempt {
	attempt := &Attempt{}
	for _, want := range req.Wants {
		al := &allocation{Request: &req, want: want, provider: a.providers.For(want.Pool)}
		al.startAnew()
		attempt.allocations = append(attempt.allocations, al)
	}
	return attempt
}

// startAnew forgets the claim that was used.
func (al *allocation) startAnew() {
	al.claim, al.used = ipam.ClaimName(al.Machine.Name, al.want.Device.Index), false
}

// use has the allocation go on with the claim of this name.
func (al *allocation) use(claim string) { al.claim, al.used = claim, true }

// claimKey is where the claim is.
func (al *allocation) claimKey() types.NamespacedName {
	return types.NamespacedName{Namespace: al.Machine.Namespace, Name: al.claim}
}

// claimSpec is what the claim is to say.
func (al *allocation) claimSpec() ipam.ClaimSpec {
	return ipam.ClaimSpec{Name: al.claim, Machine: al.Machine, Pool: al.want.Pool, Host: al.want.Host, PoolObject: al.pool.Object}
}

// poolName is the pool in a sentence.
func (al *allocation) poolName() string { return al.pool.Reference.In(al.pool.GetNamespace()) }

// shortages are what the machine waits for if the pool cannot serve: any of those that
// may be meant will do.
func (al *allocation) shortages() []ipam.Shortage {
	return al.shortagesOf(append([]ipam.PoolReference{al.want.Pool}, al.want.AlsoMissing...))
}

func (al *allocation) shortagesOf(pools []ipam.PoolReference) []ipam.Shortage {
	var shortages []ipam.Shortage
	for _, pool := range pools {
		shortages = append(shortages, ipam.Shortage{Pool: pool, Needed: al.countOf(al.want.Pool)})
	}
	return shortages
}

// useKept has the allocation that a claim was kept for use it.
func (t *Attempt) useKept(claim ipam.Claim) {
	device := claim.GetAnnotations()[ipam.DeviceAnnotation]
	i := slices.IndexFunc(t.allocations, func(al *allocation) bool {
		return !al.used && al.want.Pool == claim.Pool && strconv.Itoa(al.want.Device.Index) == device
	})
	if i >= 0 {
		t.allocations[i].use(claim.GetName())
	}
}

// countOf is the number of addresses wanted from one pool.
func (r *Request) countOf(pool ipam.PoolReference) uint64 {
	var count uint64
	for _, want := range r.Wants {
		if want.Pool == pool {
			count++
		}
	}
	return count
}
