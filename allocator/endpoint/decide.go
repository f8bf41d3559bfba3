package endpoint

import (
	"net/netip"
	"time"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// step is what is to be done next about a holding.
type step string

const (
	idle        step = "idle"
	adopt       step = "adopt"        // tie claim and address to the VSphereCluster
	protect     step = "protect"      // put our finalizer on the address
	markMoved   step = "mark-moved"   // note on the address that its VSphereCluster was moved away
	cool        step = "cool"         // keep claim and address for a while, without the VSphereCluster
	release     step = "release"      // give claim and address back
	reap        step = "reap"         // delete a claim that no VSphereCluster uses
	unprotect   step = "unprotect"    // take our finalizer off the address, and off its claim
	deleteStray step = "delete-stray" // delete an address that the provider has lost
	// Of a claim that others deleted, or that was lost.
	removeClaimFinalizer step = "remove-claim-finalizer" // take our finalizer off a claim that others delete
	recreate             step = "recreate"               // make the claim anew, for the same address
	verify               step = "verify"                 // check that a recreated address is nobody else's
	deleteFailed         step = "delete-failed"          // delete a claim that failed, to recreate it
	report               step = "report"                 // tell that the address is no longer the VSphereCluster's
)

// frees tells whether others may have an address after a step, now or when the cool-down
// that it begins is over.
func (s step) frees() bool {
	switch s {
	case cool, release, reap, unprotect, deleteStray:
		return true
	}
	return false
}

const (
	// restorePatience is for how long what once belonged to a VSphereCluster waits for it:
	// a restore brings claims and addresses first, and may take its time.
	restorePatience = time.Hour
	// useCheck is how often an address is looked at that only others use. A Cluster that
	// goes is noticed; a VM is not.
	useCheck = time.Minute
	// behindCheck is how soon it is looked again where the cache was behind.
	behindCheck = 2 * time.Second
	// terminatingCheck is how often a claim is looked at that others delete.
	terminatingCheck = 10 * time.Second
	// failedClaimAge is the age at which a claim that failed is deleted, to be recreated.
	failedClaimAge = 30 * time.Second
	// verifyInterval is how often it is looked whether another claim that was recreated
	// for the same address has given way.
	verifyInterval = 2 * time.Second
)

// clusterState is what matters about the VSphereCluster of one name.
type clusterState struct {
	holder   ipam.Holder
	exists   bool
	deleting bool
	// done says that it is being deleted, and that no finalizer but ours and the garbage
	// collector's is left.
	done bool
	// moving says that clusterctl deletes it here because it lives on elsewhere.
	moving bool
	// paused says that it, or its Cluster, is paused.
	paused bool
	// host is its endpoint, if that is an address.
	host netip.Addr
	// departed says that this leader saw it go.
	departed bool
}

// holding is a claim and its address. One of the two may be missing, or both, if the
// VSphereCluster says that it has them.
type holding struct {
	claim   *ipam.Claim
	address *ipam.Address
	// bound is what the claim of the endpoint has to be, if that or its address is missing.
	bound *ipam.Binding
	// coolDown is what the pool says now. It is looked at only where that may matter.
	coolDown allocator.CoolDown
	// requestable says that the very address can be claimed anew, and placed that this
	// takes an address object which is there before the claim.
	requestable, placed bool
	// seen is when this leader first saw the claim, or the address that has none, in the
	// version that it has.
	seen time.Time
	// foreign says of an address that a finalizer of somebody else is on it.
	foreign bool
	// used says that a Cluster which is not being deleted has the address as its endpoint,
	// or that something else in the namespace has it. It is not known in the first decision.
	used bool
}

// decide is the next step for one holding of the VSphereCluster of this name. Where that
// is to wait, it says for how long; zero waits for a change.
func decide(c clusterState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	switch {
	case h.isCooling(c):
		return decideCooling(c, h, now)
	case c.moving || h.isMoving():
		if h.isLeftByAMove() {
			return markMoved, 0
		}
		return idle, 0
	case h.isStray(c):
		return decideStray(c, h, now, grace)
	case !c.exists || !h.isEndpointOf(c):
		return decideLeft(c, h, now, grace)
	case c.done && h.used:
		// Its Cluster lives, and has the address for ever: only the VSphereCluster goes.
		return idle, useCheck
	case c.done && h.hasToCool():
		return cool, 0
	case c.done:
		return release, 0
	case h.isUnprotected() && (c.deleting || c.paused || !h.isClaimed()):
		return protect, 0
	case c.deleting, c.paused:
		return idle, 0
	}
	return decideLiving(c, h, now)
}

// decideLiving ties claim and address to the VSphereCluster whose endpoint it is, and
// mends what others broke.
func decideLiving(c clusterState, h holding, now time.Time) (step, time.Duration) {
	switch {
	case h.claim == nil:
		return decideWithoutClaim(h)
	case !c.holder.Marks(h.claim):
		return idle, 0
	case !h.isClaimed() && ipam.IsProtected(h.claim) && h.address != nil && ipam.IsProtected(h.address):
		// The provider finishes the deletion, and the claim is recreated.
		return removeClaimFinalizer, 0
	case !h.isClaimed():
		return idle, terminatingCheck
	case h.hasFailed() && !h.requestable:
		return report, 0
	case h.hasFailed():
		if wait := failedClaimAge - now.Sub(h.claim.GetCreationTimestamp().Time); wait > 0 {
			return report, wait
		}
		return deleteFailed, 0
	case h.address == nil:
		// The provider has not answered yet, and its answer is an event.
		return idle, 0
	case ipam.IsRecreated(h.claim) && h.claim.Address == "":
		return idle, 0
	case ipam.IsRecreated(h.claim):
		return verify, verifyInterval
	}
	return adopt, 0
}

// decideWithoutClaim has the claim made anew where its provider can be asked for the very
// address. Where it cannot, that stays protected.
func decideWithoutClaim(h holding) (step, time.Duration) {
	isGoing := h.address != nil && !h.address.GetDeletionTimestamp().IsZero()
	switch {
	case h.requestable && (!h.placed || !isGoing):
		return recreate, failedClaimAge
	case h.address == nil:
		return report, 0
	}
	return protect, 0
}

// decideLeft cleans up what no VSphereCluster uses: it was never stored, or is gone. The
// claim goes first, since its provider keeps the address while that stays. A request
// that uses the claim meanwhile changes its version, so that the deletion fails.
func decideLeft(c clusterState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	switch {
	case c.paused:
		return idle, 0
	case h.isClaimed():
		if !c.holder.Marks(h.claim) {
			return idle, 0
		}
		if wait := h.graceOf(c, grace) - now.Sub(h.lastUsed(now)); wait > 0 {
			return idle, wait
		}
		switch {
		case h.used:
			return idle, useCheck
		case !h.isRequested() && h.hasToCool():
			return cool, 0
		}
		return reap, 0
	case h.used:
		return idle, useCheck
	case h.address == nil || !ipam.IsProtected(h.address):
		if h.claim != nil && ipam.IsProtected(h.claim) {
			return unprotect, 0
		}
		return idle, 0
	case h.claim == nil && h.address.GetDeletionTimestamp().IsZero():
		// Nobody would free it, and nobody knows how it came to that: it may be in use in
		// another management cluster.
		return idle, 0
	case h.hasToCool() && (h.claim == nil && c.departed || h.claim != nil && !h.isRequested()):
		return cool, 0
	}
	return unprotect, 0
}

// isStray tells whether the address was made for a claim of ours, or is left of one, but
// leads nowhere: no claim has it, no living VSphereCluster does, and it is not protected.
// metal3 leaves such an address behind when a claim is deleted while it binds it.
func (h holding) isStray(c clusterState) bool {
	return h.claim == nil && h.address != nil && !ipam.IsProtected(h.address) && !hasMoved(h.address) && (!c.exists || !h.isEndpointOf(c))
}

// decideStray waits for the provider to find a use for the address after all. One that was
// an endpoint is unprotected because a backup brought it back so, as a rule.
func decideStray(c clusterState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	if c.paused {
		return idle, 0
	}
	if ipam.HolderOf(h.address) == c.holder {
		grace = max(grace, restorePatience)
	}
	made := h.seen
	if at := h.address.GetCreationTimestamp().Time; at.After(made) && !at.After(now) {
		made = at
	}
	switch wait := grace - now.Sub(made); {
	case wait > 0:
		return idle, wait
	case h.used:
		return idle, useCheck
	case h.foreign:
		return idle, 0
	}
	return deleteStray, 0
}

// isRequested tells whether the claim is a request's still, whose VSphereCluster may never
// have been stored.
func (h holding) isRequested() bool {
	_, requested := h.claim.GetAnnotations()[ipam.RequestedByAnnotation]
	return requested
}

// isEndpointOf tells whether the address is the endpoint of the VSphereCluster.
func (h holding) isEndpointOf(c clusterState) bool {
	return c.host.IsValid() && h.ip() == c.host
}

// ip is the address, or the one that the claim has to be for, invalid if neither is known.
func (h holding) ip() netip.Addr {
	switch {
	case h.address != nil:
		return capi.ParseAddress(h.address.IP)
	case h.bound != nil:
		return h.bound.Address.Addr()
	}
	return netip.Addr{}
}

// isClaimed tells whether the claim exists and will stay.
func (h holding) isClaimed() bool { return h.claim != nil && h.claim.GetDeletionTimestamp().IsZero() }

// hasFailed tells whether the provider has given up the claim, which has no address then.
func (h holding) hasFailed() bool { return h.claim.Failure != "" && h.claim.Address == "" }

// isUnprotected tells whether the address needs our finalizer, and can still get it.
func (h holding) isUnprotected() bool {
	return h.address != nil && !ipam.IsProtected(h.address) && h.address.GetDeletionTimestamp().IsZero()
}

// pool is that of claim or address.
func (h holding) pool() ipam.PoolReference {
	switch {
	case h.claim != nil:
		return h.claim.Pool
	case h.address != nil:
		return h.address.Pool
	case h.bound != nil:
		return h.bound.Pool
	}
	return ipam.PoolReference{}
}

func (h holding) isMoving() bool {
	return h.claim != nil && capi.IsMoving(h.claim) || h.address != nil && capi.IsMoving(h.address)
}

// isLeftByAMove tells whether clusterctl leaves the address behind, as it does with those
// of pools that do not move.
func (h holding) isLeftByAMove() bool {
	return h.address != nil && !capi.IsMoving(h.address) && ipam.IsProtected(h.address) && !hasMoved(h.address)
}

// graceOf is for how long a claim waits for its VSphereCluster. One that was adopted had
// it once, and waits no longer where this leader saw it go.
func (h holding) graceOf(c clusterState, grace time.Duration) time.Duration {
	switch {
	case h.isRequested():
		return grace
	case c.departed:
		return 0
	}
	return max(grace, restorePatience)
}

// lastUsed is the latest of when a request used the claim, when it was made, and when
// this leader first saw it as it is. What is in the future by its own clock says nothing.
func (h holding) lastUsed(now time.Time) time.Time {
	latest := h.seen
	times := []time.Time{h.claim.GetCreationTimestamp().Time}
	if stamp, err := ipam.StampOf(h.claim); err == nil {
		times = append(times, stamp.Time)
	}
	for _, t := range times {
		if t.After(latest) && !t.After(now) {
			latest = t
		}
	}
	return latest
}
