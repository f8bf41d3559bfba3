package allocator

import (
	"slices"

	"capv-static-ip.dev/allocator/ipam"
)

// maxSteps bounds the combinations of pools that are looked at for one machine.
const maxSteps = 10_000

// offer is what a candidate is found to be: a pool that serves, or why it does not.
type offer struct {
	candidate
	provider ipam.Provider
	pool     ipam.Pool
	// claim is the claim for which the pool must have an address left. It is empty if the
	// claim exists: then it has its own, or is in line for it.
	claim string
	// existing is the claim of another name that is to be used, see noteKept.
	existing string
	// isTaken says that there is no claim, but an address of the pool that was taken for it.
	isTaken bool
}

// choosing chooses a pool for each of several addresses: the first combination, in the
// order of the addresses and of their candidates, in which each pool has room for all
// that it is chosen for.
type choosing struct {
	// candidates are their numbers, by address.
	candidates []int
	// look tells of one candidate of one address. It may read, so that it is asked for
	// no more than is needed.
	look func(address, candidate int) (*offer, error)

	chosen []*offer
	steps  int
}

// choose fills chosen, or tells that there is no such combination.
func (c *choosing) choose() (found bool, err error) {
	address := len(c.chosen)
	if address == len(c.candidates) {
		return true, nil
	}
	for i := range c.candidates[address] {
		if c.steps++; c.steps > maxSteps {
			return false, nil
		}
		next, err := c.look(address, i)
		if err != nil {
			return false, err
		}
		if next.refusal != nil || !c.hasRoomFor(next) || isGivenBy(next, c.chosen) {
			continue
		}
		c.chosen = append(c.chosen, next)
		if found, err := c.choose(); found || err != nil {
			return found, err
		}
		c.chosen = c.chosen[:address]
	}
	return false, nil
}

// hasRoomFor tells whether a pool has an address left for one more of those it was chosen
// for.
func (c *choosing) hasRoomFor(next *offer) bool {
	free, needed := roomFor(next.pool, claimsOn(next.want.Pool, append(slices.Clone(c.chosen), next)))
	return free >= needed
}

// isGivenBy tells whether others of the machine, by what is chosen for them, want the very
// address that an offer is to bring.
func isGivenBy(o *offer, others []*offer) bool {
	return o.want.IP.IsValid() && slices.ContainsFunc(others, func(other *offer) bool {
		return other != o && other.want.Pool == o.want.Pool && other.want.IP == o.want.IP
	})
}

// roomFor tells how many addresses a pool has left, and how many these claims need. A pool
// that does not say has enough.
func roomFor(pool ipam.Pool, claims []string) (free, needed uint64) {
	if pool.Free == nil {
		return uint64(len(claims)), uint64(len(claims))
	}
	return pool.Free(claims)
}

// claimsOn are the claims that need an address of a pool.
func claimsOn(pool ipam.PoolReference, offers []*offer) []string {
	var claims []string
	for _, o := range offers {
		if o.refusal == nil && o.want.Pool == pool && o.claim != "" {
			claims = append(claims, o.claim)
		}
	}
	return claims
}
