package migration

import (
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// task is what is to be done next about a machine. As a rule it is one write.
type task string

const (
	done      task = "done"
	blocked   task = "blocked"   // somebody has to do something first
	await     task = "await"     // the provider has to do something first
	announce  task = "announce"  // say on the machine what is to be moved
	place     task = "place"     // make the address before its claim
	claim     task = "claim"     // make the claim in the new pool
	discard   task = "discard"   // delete a claim in the new pool that failed
	protect   task = "protect"   // put our finalizer on the new address
	switchTo  task = "switch-to" // have the bindings say that the new claim is the current one
	unprotect task = "unprotect" // take our finalizer off the old address
	release   task = "release"   // delete the old claim
	drop      task = "drop"      // do what a provider that rests would do about that
	giveUp    task = "give-up"   // take our finalizer off the new address
	withdraw  task = "withdraw"  // delete the new claim
	displace  task = "displace"  // delete the new address, which has no claim
	finish    task = "finish"    // take off the machine what was announced
)

// givesBack tells whether a task takes something away that holds an address.
func (t task) givesBack() bool {
	switch t {
	case unprotect, release, drop, giveUp, withdraw, displace:
		return true
	}
	return false
}

// isOfOld tells whether a task is about the old end of a move.
func (t task) isOfOld() bool { return t == unprotect || t == release || t == drop }

// side is one end of a move, as far as it exists.
type side struct {
	claim   *ipam.Claim
	address *ipam.Address
}

// isGoing tells whether the claim is being deleted, or is gone.
func (s side) isGoing() bool { return s.claim == nil || !s.claim.GetDeletionTimestamp().IsZero() }

// isOthers tells whether claim or address are not the machine's. What it says of its moves and
// its bindings anybody may have written who may write machines, and is no authority.
func (s side) isOthers(machine client.Object) bool {
	if s.claim != nil {
		owner := capi.OwnerMachine(s.claim).UID
		return owner != machine.GetUID() && (owner != "" || !ipam.IsMarked(s.claim, machine.GetName()))
	}
	return s.address != nil && ipam.IsProtected(s.address) && ipam.MachineOf(s.address) != machine.GetName()
}

// isProtected tells whether our finalizer is on the address.
func (s side) isProtected() bool { return s.address != nil && ipam.IsProtected(s.address) }

// isWhole tells whether claim and address are there, belong together, and stay.
func (s side) isWhole(move ipam.Move) bool {
	return !s.isGoing() && s.isBound(move) && s.address.GetDeletionTimestamp().IsZero()
}

// isMachines tells whether the address is wholly bound to the machine.
func (s side) isMachines(move ipam.Move) bool { return s.isWhole(move) && s.isProtected() }

// isAwaited tells whether the address is protected for a machine, and its claim is about to be
// made or bound: an address that was taken has none until the manager has seen the machine.
func (s side) isAwaited(move ipam.Move) bool {
	switch {
	case !s.isProtected() || !s.address.GetDeletionTimestamp().IsZero() || s.isWhole(move):
		return false
	case s.claim == nil:
		return true
	}
	return s.claim.GetDeletionTimestamp().IsZero() && s.claim.Failure == "" &&
		(s.claim.Address == "" || s.claim.Address == s.address.GetName())
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

// decision is a task, the journey that it is for, and why it is taken where that has to be told.
type decision struct {
	task
	journey int
	why     string
}

// next is what is to be done about a machine. One move comes after the other. As soon as the
// bindings say that the new claim is the current one, there is no way back: several may be at
// work, and what they agree upon is what the machine says. So the old end is given back only
// where it says the one, and the new end only where it says the other and that it is undone.
func next(o observed) decision {
	if o.machine == nil || !o.machine.DeletionTimestamp.IsZero() {
		// The manager releases both claims.
		return decision{task: done}
	}
	for i, j := range o.journeys {
		current, known := j.Current(o.bindings)
		d := decision{task: blocked, why: fmt.Sprintf("it does not hold %s by either of the two claims any more", j.Address)}
		switch {
		case !known && !o.announced && o.back:
			d = decision{task: done}
		case !known:
		case j.old.isOthers(o.machine):
			d.why = fmt.Sprintf("claim %s, or what it has, is not its own", j.From.Claim)
		case j.new.isOthers(o.machine):
			d.why = fmt.Sprintf("claim %s, or what it has, is not its own", j.To.Claim)
		case current == j.To:
			d = released(j)
		case o.back:
			d = withdrawn(j)
		default:
			d = moved(j, o.announced)
		}
		if d.task != done {
			d.journey = i
			return d
		}
	}
	if o.announced {
		return decision{task: finish}
	}
	return decision{task: done}
}

// moved makes the new claim the current one. Before the machine says that it is moved, the old
// one has to be whole: from then on nobody mends it.
func moved(j journey, announced bool) decision {
	switch {
	case !announced && !j.old.isMachines(j.Move):
		return decision{task: blocked, why: fmt.Sprintf("claim %s is not whole: see kubectl static-ip explain", j.From.Claim)}
	case !announced:
		return decision{task: announce}
	case j.new.address != nil && !j.isOwn():
		return decision{task: blocked, why: fmt.Sprintf("IPAddress %s is in the way, which is for %s", j.new.address.GetName(), j.new.address.IP)}
	case j.new.address == nil && j.new.claim == nil && j.places:
		return decision{task: place}
	case j.new.claim == nil:
		return decision{task: claim}
	case j.new.isGoing():
		return decision{task: await, why: fmt.Sprintf("claim %s is being deleted", j.To.Claim)}
	case j.new.claim.Failure != "":
		return decision{task: discard, why: fmt.Sprintf("%s refuses %s: %s", j.To.Pool, j.Address, j.new.claim.Failure)}
	case !j.new.isWhole(j.Move):
		return decision{task: await, why: fmt.Sprintf("claim %s is not bound: is the IPAM provider of %s running?", j.To.Claim, j.To.Pool)}
	case !j.new.isProtected() || j.new.address.GetAnnotations()[ipam.MachineUIDAnnotation] == "":
		return decision{task: protect}
	}
	return decision{task: switchTo}
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
		return decision{task: unprotect}
	case !j.old.isGoing():
		return decision{task: release}
	case j.rests && (j.old.claim != nil || j.old.address != nil):
		return decision{task: drop}
	}
	return decision{task: done}
}

// withdrawn gives the new claim back when the old one is the current one.
func withdrawn(j journey) decision {
	switch {
	case j.new.isProtected() && j.isOwn():
		return decision{task: giveUp}
	case !j.new.isGoing():
		return decision{task: withdraw}
	case j.new.claim == nil && j.new.address != nil:
		return decision{task: displace}
	case j.new.claim != nil && j.new.address != nil:
		return decision{task: await, why: fmt.Sprintf("claim %s is being deleted: is the IPAM provider of %s running?", j.To.Claim, j.To.Pool)}
	}
	return decision{task: done}
}
