package lifecycle

import (
	"time"

	"capv-static-ip.dev/allocator/ipam"
)

// step is what is to be done next about a holding.
type step string

const (
	idle                 step = "idle"
	adopt                step = "adopt"                  // tie claim and address to the machine
	claimTaken           step = "claim-taken"            // make the claim of an address that was taken
	protect              step = "protect"                // put our finalizer on the address
	recreate             step = "recreate"               // recreate a claim that is missing, for the same address
	deleteFailed         step = "delete-failed"          // delete a claim that failed, to recreate it
	report               step = "report"                 // tell that the address is no longer the machine's
	verify               step = "verify"                 // check that a recreated address is nobody else's
	note                 step = "note"                   // tell the owner that something refuses its machines
	awaitMachine         step = "await-machine"          // tell that a claim without a machine waits for it
	markMoved            step = "mark-moved"             // note on the address that its machine was moved away
	cool                 step = "cool"                   // keep claim and address for a while, without the machine
	release              step = "release"                // give claim and address back
	removeClaimFinalizer step = "remove-claim-finalizer" // take our finalizer off a claim that others delete
	unprotect            step = "unprotect"              // take our finalizer off the address
	reap                 step = "reap"                   // delete the claim of a machine that never came, or does not use it
	handBack             step = "hand-back"              // take our marks off a claim that somebody offered to a machine in vain
	dropFinalizers       step = "drop-finalizers"        // finish the deletion of a claim without a pool
	deleteStray          step = "delete-stray"           // delete an address that the provider has lost
	giveBack             step = "give-back"              // delete an address that was taken, and that no machine uses
)

// frees tells whether others may have an address after a step, now or when the cool-down
// that it begins is over: that is not decided again of the machine.
//
// Not among them are: deleteFailed, since a claim that failed has no address; verify,
// which searches the pool live before it gives a claim up; and dropFinalizers, which
// has asked the API server for the pool: it is gone, and with it who could give its
// addresses to others. Each write of theirs is against the version that was judged.
func (s step) frees() bool {
	switch s {
	case cool, release, removeClaimFinalizer, unprotect, reap, handBack, deleteStray, giveBack:
		return true
	}
	return false
}

const (
	// restorePatience is for how long what once belonged to a machine waits for
	// that machine: a restore brings claims and addresses before machines, and may
	// take its time.
	restorePatience = time.Hour
	// storingPatience is for how long an answered machine may take to be stored
	// before its owner is told that something refuses it; noteInterval is how often
	// it is told again. Both are short of the minute after which it is to try.
	storingPatience = 5 * time.Second
	noteInterval    = 20 * time.Second
	// vmCheck is how often an address that only a VM keeps is looked at. A VM that
	// goes is noticed; one that ceases to report an address is not.
	vmCheck = time.Minute
	// terminatingCheck is how often a claim that is being deleted is looked at:
	// nothing tells of the end of its pool.
	terminatingCheck = 10 * time.Second
	// failedClaimAge is the age at which a claim that failed is deleted, to be recreated. The
	// provider does not look at it any more, even if its address is free by then.
	failedClaimAge = 30 * time.Second

	// verifyInterval is how often it is looked whether another claim that was
	// recreated for the same address has given way.
	verifyInterval = 2 * time.Second

	// busyClaims is the number of claims that wait for a provider from which on
	// adoption is put off: a machine is waiting behind each of them, and writes
	// to claims and addresses that are bound, and protected, would hold it up.
	busyClaims = 4
	// maxWebhookTimeout is for how long a request can wait for its claim: the longest
	// timeout that a webhook can have.
	maxWebhookTimeout = 30 * time.Second
	// busyCheck is how often adoption that was put off is considered again.
	busyCheck = 2 * time.Second
	// adoptionPatience is for how long after a machine's creation adoption can be
	// put off. It is short because whoever may write claims can make it look as if
	// requests waited.
	adoptionPatience = 10 * time.Second
)

// decide is the next step for one holding of the machine of this name. Where
// that is to wait, it says for how long; zero waits for a change.
func decide(m machineState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	// What nobody will use any more comes first, whatever became of the machine. Then
	// it matters whether there is a machine, whether it goes, and only then whether it
	// is paused: deletions go on while a Cluster is paused.
	switch {
	case h.abandoned && ipam.IsMarked(h.claim, m.name):
		return dropFinalizers, 0
	case h.isCooling(m):
		return decideCooling(m, h, now)
	case h.isLeftByAMove(m):
		return markMoved, 0
	case h.isStray(m.name):
		return decideStray(h, now, grace)
	case !m.exists || h.isOfEarlierMachine(m):
		return decideGone(m, h, now, grace)
	case m.moving:
		return idle, 0
	case m.deleting:
		return decideDeleting(m, h), 0
	case h.paused:
		return idle, 0
	}
	return decideLiving(m, h, now, grace)
}

// decideStray waits for the provider to find a use for an address after all. One
// that was a machine's is unprotected because a backup brought it back so.
func decideStray(h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	if h.paused || h.isMoving() {
		return idle, 0
	}
	if h.address.GetAnnotations()[ipam.MachineUIDAnnotation] != "" {
		grace = max(grace, restorePatience)
	}
	switch wait := grace - now.Sub(h.lastMade(now)); {
	case wait > 0:
		return idle, wait
	case h.isStillUsed():
		return idle, vmCheck
	case h.foreign:
		return idle, 0
	}
	return deleteStray, 0
}

// decideLiving ties a binding to its machine, and mends it where others broke it.
func decideLiving(m machineState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	// The cases go from less to more: parts that belong to no binding, a binding
	// without a claim, one whose claim goes, one that is not the machine's, one that
	// is not bound. What is left is whole, and each case may rely on what those
	// before it have ruled out.
	switch {
	case h.isSpare(m):
		return decideSpare(h, now, grace)
	case h.isSpareClaim(m):
		return decideSpareClaim(m, h, now, grace)
	case h.isTaken():
		return decideTaken(m, h, now)
	case h.claim == nil:
		return decideWithoutClaim(m, h)
	case h.isHeldBack(m.name) && h.belongsTo(m):
		// The address goes with its claim unless our finalizer is on it, too.
		if h.isUnprotected() {
			return protect, 0
		}
		// The provider finishes the deletion, and the claim is recreated.
		return removeClaimFinalizer, 0
	case !h.claim.GetDeletionTimestamp().IsZero():
		return idle, terminatingCheck
	case h.annotated == nil || !h.belongsTo(m) && !h.isOffered(m):
		// Only what claim and machine both say is a binding. restore has looked already
		// whether the machine has merely lost its word.
		return idle, 0
	case h.claim.Failure != "":
		return decideFailed(h, now)
	case h.address == nil:
		// The provider has not answered yet, and its answer is an event.
		return idle, 0
	case ipam.IsRecreated(h.claim):
		return decideRecreated(h)
	case !h.isAnnotatedAddress():
		return report, 0
	case h.busy && ipam.IsProtected(h.address) && len(h.claim.GetOwnerReferences()) == 0 && now.Sub(m.created) < adoptionPatience:
		// This can wait: the address is bound and protected, so nobody else gets it.
		return idle, busyCheck
	}
	return adopt, 0
}

// decideSpare unprotects a spare address, which makes it a stray one. One that was taken has
// no provider who would know of it, and is deleted.
func decideSpare(h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	switch wait := grace - now.Sub(h.lastMade(now)); {
	case wait > 0:
		return idle, wait
	case h.isStillUsed():
		return idle, vmCheck
	case h.isTaken():
		return giveBack, 0
	}
	return unprotect, 0
}

// decideTaken has the claim made of an address that was taken for a machine which is stored
// by now. A provider that finds two addresses for a claim takes either of them, so that one
// that is left over has to be gone before. And it can wait while others wait for theirs: the
// address is the machine's.
func decideTaken(m machineState, h holding, now time.Time) (step, time.Duration) {
	switch {
	case h.annotated == nil || h.offDevice || !h.belongsTo(m) || !h.isAnnotatedAddress():
		return idle, 0
	case h.hasTwin:
		return idle, 0
	case h.busy && now.Sub(m.created) < adoptionPatience:
		return idle, busyCheck
	}
	return claimTaken, failedClaimAge
}

// decideSpareClaim is decideOrphan for a claim whose machine lives without it. It
// waits for the machine's age, too: what was stored a moment ago may be changed yet.
func decideSpareClaim(m machineState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	if h.isMoving() {
		return idle, 0
	}
	if !h.claim.GetDeletionTimestamp().IsZero() {
		if h.address != nil && ipam.IsProtected(h.address) && !h.isStillUsed() {
			return unprotect, 0
		}
		return idle, terminatingCheck
	}
	unseen := h.claim.Address != "" && h.address == nil
	switch wait := grace - min(now.Sub(h.lastUsed(now)), now.Sub(m.created)); {
	case unseen:
		// What cannot be seen may be on a device.
		return idle, 0
	case wait > 0:
		return idle, wait
	case h.isStillUsed():
		return idle, vmCheck
	}
	return reapOrHandBack(h), 0
}

// decideRecreated waits with a claim that was recreated until its provider has
// bound it: only from then on it gives the address to nobody else.
func decideRecreated(h holding) (step, time.Duration) {
	switch {
	case h.claim.Address == "":
		return idle, 0
	case !h.isAnnotatedAddress():
		return deleteFailed, failedClaimAge
	}
	return verify, verifyInterval
}

// decideWithoutClaim: the address is the binding as long as it is protected. A
// machine that was moved or restored without both gets them back where its
// provider can be asked for that very address, unless it does not use it.
func decideWithoutClaim(m machineState, h holding) (step, time.Duration) {
	switch {
	case h.annotated == nil:
		return idle, 0
	case h.address == nil && h.hasTwin:
		// The claim would be given that one.
		return idle, 0
	case h.address == nil && h.offDevice:
		return idle, 0
	case h.address == nil && h.requestable:
		return recreate, failedClaimAge
	case h.address == nil || !h.isAnnotatedAddress():
		return report, 0
	case !h.belongsTo(m):
		return idle, 0
	case ipam.IsProtected(h.address) && h.requestable && !h.offDevice && (!h.placed || h.address.GetDeletionTimestamp().IsZero()):
		return recreate, failedClaimAge
	case ipam.IsProtected(h.address) || h.address.GetDeletionTimestamp().IsZero():
		return protect, 0
	}
	return report, 0
}

// decideFailed handles a claim that its provider refused: the address is somebody
// else's, or was when the provider looked. It reports that, and after failedClaimAge
// has the claim deleted, so that it is recreated.
func decideFailed(h holding, now time.Time) (step, time.Duration) {
	if !h.requestable {
		return report, 0
	}
	if wait := failedClaimAge - now.Sub(h.claim.GetCreationTimestamp().Time); wait > 0 {
		return report, wait
	}
	return deleteFailed, 0
}

// decideDeleting gives a binding back when nobody else is left on the machine
// and no VM of it is left either.
func decideDeleting(m machineState, h holding) step {
	switch {
	case !m.done || !h.belongsTo(m):
		return idle
	case !h.vmExists && h.hasToCool():
		return cool
	case !h.vmExists && h.isTaken() && h.madeFor != nil:
		// Its claim is there by now, and the cache behind.
		return idle
	case !h.vmExists && h.isTaken():
		return giveBack
	case !h.vmExists:
		return release
	case h.address != nil && h.address.GetDeletionTimestamp().IsZero() && !ipam.IsProtected(h.address):
		// CAPV lets go of a machine without an owner Machine before the VM is gone.
		return protect
	}
	return idle
}

// decideGone cleans up behind a machine that does not exist (any more).
func decideGone(m machineState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	// While a claim stays, its provider keeps the address, so the claim is decided
	// upon first. The address comes next, and our finalizer on the claim last: without
	// it the provider may free the address.
	switch {
	case h.paused || h.isMoving():
		return idle, 0
	case h.isClaimed():
		return decideOrphan(m, h, now, grace)
	case h.isTaken() && !h.moved && !hasMoved(h.address):
		return decideTakenAlone(m, h, now, grace)
	case h.address != nil && h.isProtectedFor(m.name):
		return decideLeft(h, now)
	case h.isHeldBack(m.name) && !h.vmExists:
		return removeClaimFinalizer, 0
	case h.claim != nil:
		return idle, terminatingCheck
	}
	return idle, 0
}

// decideOrphan leaves a claim to the request that may still store its machine, or
// to the restore that may still bring it. The address stays protected for as long
// as the claim lives.
func decideOrphan(m machineState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	if m.exists || !isOrphan(h.claim, m.name) {
		return idle, 0
	}
	switch wait := graceOf(h.claim, grace) - now.Sub(h.lastUsed(now)); {
	case wait > 0 && wasAdopted(h.claim):
		return awaitMachine, wait
	case wait > 0:
		return decideUnstored(h, now, wait)
	case h.vmExists:
		return idle, vmCheck
	case wasAdopted(h.claim) && h.hadMachine() && h.hasToCool() && !ipam.IsOffered(h.claim):
		// One that was offered goes back to its maker, and the address with it.
		return cool, 0
	}
	return reapOrHandBack(h), 0
}

// decideTakenAlone is decideOrphan for an address that was taken, and has no claim.
func decideTakenAlone(m machineState, h holding, now time.Time, grace time.Duration) (step, time.Duration) {
	switch wait := grace - now.Sub(h.lastMade(now)); {
	case m.exists || h.madeFor != nil:
		// It is its machine's, or its claim is there by now, and the cache behind.
		return idle, behindCheck
	case wait > 0:
		return decideUnstored(h, now, wait)
	case h.vmExists:
		return idle, vmCheck
	}
	return giveBack, 0
}

// reapOrHandBack is how a claim ends that no machine uses: ours is deleted, and one that
// somebody offered becomes its maker's again.
func reapOrHandBack(h holding) step {
	if ipam.IsOffered(h.claim) {
		return handBack
	}
	return reap
}

// decideUnstored has the owner told of a machine that was answered and not stored,
// again and again for as long as its claim is there: whatever refuses it leaves no
// trace that could be watched, so the owner is to go on trying.
func decideUnstored(h holding, now time.Time, wait time.Duration) (step, time.Duration) {
	switch unstored := storingPatience - now.Sub(h.lastRequested(now)); {
	case !h.wasAnswered():
		return idle, wait
	case unstored > 0:
		return idle, min(wait, unstored)
	}
	return note, min(wait, noteInterval)
}

// decideLeft unprotects an address that a machine has left behind, or has it cool down.
func decideLeft(h holding, now time.Time) (step, time.Duration) {
	switch wait := restorePatience - now.Sub(h.seen); {
	case h.vmExists, h.isBeingAdmitted():
		return idle, vmCheck
	case h.isUnexplained() && wait > 0:
		return idle, wait
	case h.hadMachine() && h.hasToCool():
		return cool, 0
	}
	return unprotect, 0
}

// fate is what becomes of an address that is unprotected.
type fate int

const (
	// freed: its provider frees it with its claim, or has begun to.
	freed fate = iota
	// lost: nobody frees it, so it keeps the marks by which it is then found.
	lost
	// moved: its machine uses it in another management cluster. It stays taken.
	moved
	// handedBack: it stays that of a claim which is its maker's again.
	handedBack
)

// decideFate is what becomes of the address of a holding that is released, or left.
func decideFate(m machineState, h holding) fate {
	going := !h.address.GetDeletionTimestamp().IsZero()
	if m.exists && !h.isOfEarlierMachine(m) {
		// The claim of a living machine is always in the holding: if there is none, it is
		// gone, and nobody frees the address.
		if h.isSpare(m) || h.claim == nil && !going {
			return lost
		}
		return freed
	}
	switch {
	case (h.moved || hasMoved(h.address)) && !ipam.IsReleased(h.address):
		return moved
	case !h.answersClaim() && !going:
		return lost
	}
	return freed
}
