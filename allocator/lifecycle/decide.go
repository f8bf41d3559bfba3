package lifecycle

import (
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// machineState is what matters about the machine of one name.
type machineState struct {
	name     string
	exists   bool
	uid      types.UID
	created  time.Time
	deleting bool
	// done says that it is being deleted, and that no finalizer but ours and the
	// garbage collector's is left: everybody else, as a rule CAPV, is done with it.
	done bool
	// moving says that clusterctl deletes the object here because it lives on
	// in another management cluster.
	moving bool
}

// holding is what is known of one binding: any part of it may be missing.
type holding struct {
	claim     *ipam.Claim
	address   *ipam.Address
	annotated *ipam.Binding
	// sharedWith names another machine whose annotation holds the address too.
	sharedWith string
	// vmExists says that there is a VSphereVM of the machine that held it, or one
	// that has the address and is not known to be another's.
	vmExists bool
	// seen is when this leader first saw the claim, or the address that has none,
	// in the version that it has.
	seen time.Time
	// departed says that this leader saw the machine or its claim go.
	departed bool
	// offDevice says that none of the machine's devices has the annotated address,
	// and onDevice that one has the address, annotated or not.
	offDevice, onDevice bool
	// paused says that the Cluster, or the machine, is paused.
	paused bool
	// abandoned says that the claim is being deleted, and that its provider
	// will never finish that.
	abandoned bool
	// busy says that many claims wait for the provider to bind them.
	busy bool
	// requestable says that its provider can be asked for a given address.
	requestable bool
	// placed says that it is asked by an address object that is there before the
	// claim, which cannot be made while another one of that name is going.
	placed bool
}

// step is what is to be done next about a holding.
type step string

const (
	idle                 step = "idle"
	adopt                step = "adopt"                  // tie claim and address to the machine
	protect              step = "protect"                // put our finalizer on the address
	recreate             step = "recreate"               // make a claim that is missing again, for the same address
	deleteFailed         step = "delete-failed"          // delete a claim that failed, to make it again
	report               step = "report"                 // tell that the address is no longer the machine's
	verify               step = "verify"                 // check that a recreated address is nobody else's
	note                 step = "note"                   // tell the owner that something refuses its machines
	awaitMachine         step = "await-machine"          // tell that a claim without a machine waits for it
	markMoved            step = "mark-moved"             // note on the address that its machine was moved away
	release              step = "release"                // give claim and address back
	removeClaimFinalizer step = "remove-claim-finalizer" // take our finalizer off a claim that others delete
	unprotect            step = "unprotect"              // take our finalizer off the address
	reap                 step = "reap"                   // delete the claim of a machine that never came, or does not use it
	dropFinalizers       step = "drop-finalizers"        // finish the deletion of a claim without a pool
	deleteStray          step = "delete-stray"           // delete an address that the provider has lost
)

// frees tells whether a step may give an address back to its pool.
func (s step) frees() bool {
	switch s {
	case release, removeClaimFinalizer, unprotect, reap, deleteStray:
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

	// verifyInterval is how often it is looked whether another claim that was made
	// again for the same address has given way.
	verifyInterval = 2 * time.Second

	// busyClaims is the number of claims that wait for a provider from which on
	// adoption is put off: a machine is waiting behind each of them, and writes
	// to claims and addresses that are bound, and protected, would hold it up.
	busyClaims = 4
	// requestLimit is for how long a request can wait for its claim: the longest
	// timeout that a webhook can have.
	requestLimit = 30 * time.Second
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
	case h.claim == nil:
		return decideWithoutClaim(m, h)
	case h.isHeldBack(m.name) && h.belongsTo(m):
		if h.isUnprotected() {
			return protect, 0
		}
		// The provider finishes the deletion, and the claim is recreated.
		return removeClaimFinalizer, 0
	case !h.claim.GetDeletionTimestamp().IsZero():
		return idle, terminatingCheck
	case h.annotated == nil || !h.belongsTo(m) && !h.isOffered(m):
		return idle, 0
	case h.claim.Failure != "":
		return decideFailed(h, now)
	case h.address == nil:
		return idle, 0
	case isRecreated(h.claim):
		return decideRecreated(h)
	case !h.isAnnotatedAddress():
		return report, 0
	case h.busy && isProtected(h.address) && len(h.claim.GetOwnerReferences()) == 0 && now.Sub(m.created) < adoptionPatience:
		return idle, busyCheck
	}
	return adopt, 0
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
	case !h.vmExists:
		return release
	case h.address != nil && h.address.GetDeletionTimestamp().IsZero() && !isProtected(h.address):
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
	case h.address != nil && h.isProtectedFor(m.name):
		return decideLeft(h, now)
	case h.isHeldBack(m.name) && !h.vmExists:
		return removeClaimFinalizer, 0
	case h.claim != nil:
		return idle, terminatingCheck
	}
	return idle, 0
}

// decideLeft unprotects an address that a machine has left behind.
func decideLeft(h holding, now time.Time) (step, time.Duration) {
	switch wait := restorePatience - now.Sub(h.seen); {
	case h.vmExists:
		return idle, vmCheck
	case h.isUnexplained() && wait > 0:
		return idle, wait
	}
	return unprotect, 0
}

// belongsTo tells whether the machine has authority over the holding: by the
// owner UID on the claim, or, where the claim has no owner, by our mark on it as
// long as no other machine holds the address. An annotation alone is no authority.
func (h holding) belongsTo(m machineState) bool {
	if h.claim == nil {
		return h.address != nil && h.addressBelongsTo(m)
	}
	if len(h.claim.GetOwnerReferences()) > 0 {
		return capi.OwnerMachine(h.claim).UID == m.uid
	}
	return ipam.IsMarked(h.claim, m.name) && h.sharedWith == ""
}

// isOffered tells whether the claim is one that its maker wants the machine to
// take over, for the address that the machine was found to have on its device.
func (h holding) isOffered(m machineState) bool {
	return isOffered(h.claim, m.name) && h.sharedWith == "" &&
		h.annotated != nil && h.address != nil && h.isAnnotatedAddress()
}

// isOffered tells whether a claim is somebody's own, and says that the machine
// may take it over. Nothing else does: a name may be alike by chance.
func isOffered(claim client.Object, machine string) bool {
	return claim.GetAnnotations()[ipam.ForAnnotation] == machine &&
		ipam.MachineOf(claim) == "" && len(claim.GetOwnerReferences()) == 0
}

// addressBelongsTo judges an address whose claim is gone: by the machine's UID
// on it, or, where that was lost or is from before a move, by its name together
// with the machine's own word.
func (h holding) addressBelongsTo(m machineState) bool {
	if h.address.GetAnnotations()[ipam.MachineUIDAnnotation] == string(m.uid) {
		return true
	}
	named := ipam.MachineOf(h.address)
	return h.annotated != nil && h.sharedWith == "" && (named == "" || named == m.name)
}

// isOfEarlierMachine tells whether the holding is what is left of a machine of
// the same name that is gone. What is of a machine with another name is not:
// a copied annotation may lead to it.
func (h holding) isOfEarlierMachine(m machineState) bool {
	if h.claim != nil {
		owner := capi.OwnerMachine(h.claim)
		return owner.Name == m.name && owner.UID != m.uid
	}
	if h.address == nil || h.annotated != nil {
		return false
	}
	uid := h.address.GetAnnotations()[ipam.MachineUIDAnnotation]
	return ipam.MachineOf(h.address) == m.name && uid != "" && uid != string(m.uid)
}

// isClaimed tells whether the claim exists and will stay.
func (h holding) isClaimed() bool {
	return h.claim != nil && h.claim.GetDeletionTimestamp().IsZero()
}

// isHeldBack tells whether our finalizer holds up the deletion of the machine's
// claim. While clusterctl moves it, that is what the finalizer is for.
func (h holding) isHeldBack(machine string) bool {
	return h.claim != nil && !h.claim.GetDeletionTimestamp().IsZero() && isProtected(h.claim) &&
		machineOfClaim(h.claim) == machine && !h.isMoving()
}

func (h holding) isMoving() bool {
	return h.claim != nil && isMoving(h.claim) || h.address != nil && isMoving(h.address)
}

func (h holding) isAnnotatedAddress() bool {
	ip, err := netip.ParseAddr(h.address.IP)
	return err == nil && ip.Unmap() == h.annotated.Address.Addr()
}

func isMoving(obj client.Object) bool {
	_, moving := obj.GetAnnotations()[clusterctlv1.DeleteForMoveAnnotation]
	return moving
}

// isProtectedFor tells whether our finalizer is on the address for a machine of
// this name, or for one that it does not name any more.
func (h holding) isProtectedFor(machine string) bool {
	named := ipam.MachineOf(h.address)
	return isProtected(h.address) && (named == "" || named == machine)
}

// isProtected tells whether our finalizer is on an address, or on a claim.
func isProtected(obj client.Object) bool {
	return slices.Contains(obj.GetFinalizers(), ipam.InUseFinalizer)
}

// isUnprotected tells whether the address needs our finalizer, and can still get it.
func (h holding) isUnprotected() bool {
	return h.address != nil && !isProtected(h.address) && h.address.GetDeletionTimestamp().IsZero()
}

// hasMoved tells whether the machine of an address lives in another management
// cluster.
func hasMoved(address client.Object) bool {
	_, moved := address.GetAnnotations()[ipam.MovedAnnotation]
	return moved
}

// isLeftByAMove tells whether clusterctl is taking machine or claim away and
// leaves the address, as it does with those of a pool that does not move.
func (h holding) isLeftByAMove(m machineState) bool {
	return (m.moving || h.claim != nil && isMoving(h.claim)) &&
		h.address != nil && h.isProtectedFor(m.name) && !isMoving(h.address) && !hasMoved(h.address)
}

// isUnexplained tells whether nobody frees the address, and nobody knows how it
// came to that: this leader saw neither machine nor claim go. The machine may
// live in another management cluster.
func (h holding) isUnexplained() bool {
	return h.claim == nil && !h.departed && !hasMoved(h.address) &&
		h.address.GetDeletionTimestamp().IsZero() && h.address.GetAnnotations()[ipam.MachineUIDAnnotation] != ""
}
