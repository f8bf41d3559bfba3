package lifecycle

import (
	"slices"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// isMigrating tells whether the machine says that claim or address of a holding are on their
// way from one pool to another. Each of the two claims then looks like one that the
// machine has lost, or does not use; which is the current one is for who moves it to say.
// Only when the machine goes, both are released.
func (s *state) isMigrating(h *holding) bool {
	migration, ok := ipam.MigrationOf(s.object)
	if !ok {
		return false
	}
	return h.claim != nil && migration.Has(ipam.ClaimReference{Pool: h.claim.Pool, Claim: h.claim.GetName()}) ||
		h.address != nil && migration.Has(ipam.ClaimReference{Pool: h.address.Pool, Claim: h.address.Claim}) ||
		h.annotated != nil && migration.Has(h.annotated.ClaimReference())
}

// isBoundOtherwise tells whether the machine says that it has the address in this place by
// another claim. When an address has been moved to another pool, the cache may show the
// claim that it came from, or that it was taken, for a moment longer than the mark that says
// so.
func (s *state) isBoundOtherwise(h *holding) bool {
	if h.annotated != nil || h.address == nil || h.claim == nil && !h.isTaken() {
		return false
	}
	claim := namedAsClaimOf(h.address)
	if h.claim != nil {
		claim = *h.claim
	}
	slot, ok := ipam.SlotOfClaim(claim, s.name)
	return ok && slices.ContainsFunc(s.holdings, func(other *holding) bool {
		return other.annotated != nil && other.annotated.Slot() == slot && other.annotated.Address.Addr() == capi.ParseAddress(h.address.IP)
	})
}
