package allocator

import (
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
	Owner   ipam.Owner
	// Wants are served in this order. Claim writes into each which claim it used.
	Wants []ipam.Want

	// way is that of the request's claims.
	way *way
}

// claimKey names the claim of a want.
func (r Request) claimKey(w ipam.Want) types.NamespacedName {
	name := w.Claim
	if name == "" {
		name = ipam.ClaimName(r.Machine.Name, w.Device.Index)
	}
	return types.NamespacedName{Namespace: r.Machine.Namespace, Name: name}
}

// countOf is the number of addresses wanted from one pool.
func (r Request) countOf(pool ipam.PoolReference) uint64 {
	var count uint64
	for _, want := range r.Wants {
		if want.Pool == pool {
			count++
		}
	}
	return count
}

// adopt has the want that a kept claim fits use it.
func (r Request) adopt(claim ipam.Claim) {
	for i := range r.Wants {
		want := &r.Wants[i]
		if want.Claim == "" && want.Pool == claim.Pool && claim.GetAnnotations()[ipam.DeviceAnnotation] == strconv.Itoa(want.Device.Index) {
			want.Claim = claim.GetName()
			return
		}
	}
}

// claimSpec is what the claim of a want is to say.
func (r Request) claimSpec(want ipam.Want, pool ipam.Pool) ipam.ClaimSpec {
	return ipam.ClaimSpec{Name: r.claimKey(want).Name, Machine: r.Machine, Pool: want.Pool, Host: want.Host, PoolObject: pool.Object}
}
