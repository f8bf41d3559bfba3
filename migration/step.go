package migration

import (
	"fmt"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// step is what is to be done next about a machine. Each is one write.
type step string

const (
	done       step = "done"
	blocked    step = "blocked"     // somebody has to do something first
	await      step = "await"       // the provider has to do something first
	announce   step = "announce"    // say on the machine what is to be moved
	place      step = "place"       // make the address before its claim
	claim      step = "claim"       // make the claim in the new pool
	discard    step = "discard"     // delete a claim in the new pool that failed
	protect    step = "protect"     // put our finalizer on the new address
	switchTo   step = "switch-to"   // have the bindings say that the new claim is the current one
	unprotect  step = "unprotect"   // take our finalizer off the old address
	release    step = "release"     // delete the old claim
	drop       step = "drop"        // do what a provider that rests would do about that
	reprotect  step = "reprotect"   // put our finalizer on the old address again
	switchBack step = "switch-back" // have the bindings say that the old claim is the current one
	giveUp     step = "give-up"     // take our finalizer off the new address
	withdraw   step = "withdraw"    // delete the new claim
	displace   step = "displace"    // delete the new address, which has no claim
	finish     step = "finish"      // take off the machine what was announced
)

// side is one end of a move, as far as it exists.
type side struct {
	claim   *ipam.Claim
	address *ipam.Address
}

// isGoing tells whether the claim is being deleted, or is gone.
func (s side) isGoing() bool { return s.claim == nil || !s.claim.GetDeletionTimestamp().IsZero() }

// isProtected tells whether our finalizer is on the address.
func (s side) isProtected() bool { return s.address != nil && ipam.IsProtected(s.address) }

// isWhole tells whether claim and address are there, belong together, and stay.
func (s side) isWhole(move ipam.Move) bool {
	return !s.isGoing() && s.isBound(move) && s.address.GetDeletionTimestamp().IsZero()
}

// isBound tells whether the claim has the very address.
func (s side) isBound(move ipam.Move) bool {
	return s.claim != nil && s.address != nil && s.claim.Address == s.address.GetName() &&
		ipam.Answers(s.address, s.claim.GetUID()) && capi.ParseAddress(s.address.IP) == move.Address
}

// journey is one move of a machine, with what exists of both ends.
type journey struct {
	ipam.Move
	old, new side
	// places says that the provider of the new pool takes an address that is there before its
	// claim, and rests that that of the old one does nothing for a frozen pool.
	places, rests bool
}

// observed is what is stored of a machine that is to be moved.
type observed struct {
	// machine is nil if it is gone.
	machine  *capi.VSphereMachine
	bindings []ipam.Binding
	// announced says that the machine says what is to be moved, and back that it is undone.
	announced, back bool
	journeys        []journey
}

// decision is a step, the journey that it is for, and why it is taken where that has to be told.
type decision struct {
	step
	journey int
	why     string
}

// next is what is to be done about a machine. One move comes after the other.
func next(o observed) decision {
	if o.machine == nil || !o.machine.DeletionTimestamp.IsZero() {
		// The manager releases both claims.
		return decision{step: done}
	}
	for i, j := range o.journeys {
		current, known := j.Current(o.bindings)
		d := decision{step: blocked, why: fmt.Sprintf("it does not hold %s by either of the two claims any more", j.Address)}
		switch {
		case !known && !o.announced && o.back:
			d = decision{step: done}
		case !known:
		case o.back && current == j.From:
			d = withdrawn(j)
		case o.back && j.old.isWhole(j.Move):
			d = returned(j)
		case current == j.From:
			d = moved(j, o.announced)
		default:
			d = released(j)
		}
		if d.step != done {
			d.journey = i
			return d
		}
	}
	if o.announced {
		return decision{step: finish}
	}
	return decision{step: done}
}

// moved makes the new claim the current one. Before the machine says that it is moved, the old
// one has to be whole: from then on nobody mends it.
func moved(j journey, announced bool) decision {
	switch {
	case !announced && !(j.old.isWhole(j.Move) && j.old.isProtected()):
		return decision{step: blocked, why: fmt.Sprintf("claim %s is not whole: see kubectl static-ip explain", j.From.Claim)}
	case !announced:
		return decision{step: announce}
	case j.new.address != nil && !j.isOwn():
		return decision{step: blocked, why: fmt.Sprintf("IPAddress %s is in the way, which is for %s", j.new.address.GetName(), j.new.address.IP)}
	case j.new.address == nil && j.new.claim == nil && j.places:
		return decision{step: place}
	case j.new.claim == nil:
		return decision{step: claim}
	case j.new.isGoing():
		return decision{step: await, why: fmt.Sprintf("claim %s is being deleted", j.To.Claim)}
	case j.new.claim.Failure != "":
		return decision{step: discard, why: fmt.Sprintf("%s refuses %s: %s", j.To.Pool, j.Address, j.new.claim.Failure)}
	case !j.new.isWhole(j.Move):
		return decision{step: await, why: fmt.Sprintf("claim %s is not bound: is the IPAM provider of %s running?", j.To.Claim, j.To.Pool)}
	case !j.new.isProtected() || j.new.address.GetAnnotations()[ipam.MachineUIDAnnotation] == "":
		return decision{step: protect}
	}
	return decision{step: switchTo}
}

// isOwn tells whether the address object in the new pool is the one that is wanted.
func (j journey) isOwn() bool {
	a := j.new.address
	return a.Pool == j.To.Pool && a.Claim == j.To.Claim && capi.ParseAddress(a.IP) == j.Address
}

// released gives the old claim back when the new one is the current one.
func released(j journey) decision {
	switch {
	case j.old.isProtected():
		return decision{step: unprotect}
	case !j.old.isGoing():
		return decision{step: release}
	case j.rests && (j.old.claim != nil || j.old.address != nil):
		return decision{step: drop}
	}
	return decision{step: done}
}

// returned makes the old claim the current one again. It is whole.
func returned(j journey) decision {
	if !j.old.isProtected() {
		return decision{step: reprotect}
	}
	return decision{step: switchBack}
}

// withdrawn gives the new claim back when the old one is the current one.
func withdrawn(j journey) decision {
	switch {
	case j.new.isProtected():
		return decision{step: giveUp}
	case !j.new.isGoing():
		return decision{step: withdraw}
	case j.new.claim == nil && j.new.address != nil:
		return decision{step: displace}
	case j.new.claim != nil && j.new.address != nil:
		return decision{step: await, why: fmt.Sprintf("claim %s is being deleted: is the IPAM provider of %s running?", j.To.Claim, j.To.Pool)}
	}
	return decision{step: done}
}
