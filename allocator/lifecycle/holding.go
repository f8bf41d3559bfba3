package lifecycle

import (
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
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

// isSame tells whether nothing has become of the machine that matters here. One that
// does not exist has no UID.
func (m machineState) isSame(other machineState) bool {
	return m.uid == other.uid && m.deleting == other.deleting && m.done == other.done && m.moving == other.moving
}

// holding is what is known of one binding: any part of it may be missing.
type holding struct {
	claim     *ipam.Claim
	address   *ipam.Address
	annotated *ipam.Binding
	// sharedWith names another machine that has the address on a device too.
	sharedWith string
	// seen is when this leader first saw the claim, or the address that has none,
	// in the version that it has.
	seen time.Time
	// departed says that this leader saw the machine or its claim go.
	departed bool
	// offDevice says that none of the machine's devices has the annotated address,
	// and onDevice that one has the address, annotated or not.
	offDevice, onDevice bool
	// paused says that the Cluster, or the machine, is paused, or that the machine says
	// that the binding is being moved to another pool.
	paused bool
	// abandoned says that the claim is being deleted, and that its provider
	// will never finish that.
	abandoned bool
	// busy says that many claims wait for the provider to bind them.
	busy bool
	// hasTwin says that there is another address for the same claim: one that was taken, if
	// the holding has none.
	hasTwin bool
	// requestable says that its provider can be asked for a given address.
	requestable bool
	// placed says that it is asked by an address object that is there before the
	// claim, which cannot be made while another one of that name is going.
	placed bool
	// foreign says of a stray address that a finalizer of somebody else is on it.
	foreign bool
	// moved says that this leader saw clusterctl take the machine or its claim away.
	moved bool
	// coolDown is what the pool says now. It is looked at only where that may matter.
	coolDown allocator.CoolDown

	// What follows is zero in the first decision. If that frees, reread (confirm.go)
	// fills it, and decide is asked again.

	// vmExists says that there is a VSphereVM of the machine that held it, or one
	// that has the address and is not known to be another's.
	vmExists bool
	// used says that the machine's annotation has claim or address, though that is
	// no binding here.
	used bool
	// madeFor is the claim that the address was made for, which may be its own.
	madeFor *ipam.Claim
	// rebound says that the machine's annotation has the claim that the address was
	// made for: for another address, if it is not used.
	rebound bool
}

// belongsTo tells whether the machine has authority over the holding: by the
// owner UID on the claim, or, where the claim has no owner, by our mark on it as
// long as no other machine holds the address. An annotation alone is no authority.
func (h holding) belongsTo(m machineState) bool {
	if h.isCooling(m) {
		return false
	}
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
	return h.claim != nil && !h.claim.GetDeletionTimestamp().IsZero() && ipam.IsProtected(h.claim) &&
		machineOfClaim(h.claim) == machine && !h.isMoving()
}

func (h holding) isMoving() bool {
	return h.claim != nil && capi.IsMoving(h.claim) || h.address != nil && capi.IsMoving(h.address)
}

func (h holding) isAnnotatedAddress() bool {
	ip, err := netip.ParseAddr(h.address.IP)
	return err == nil && ip.Unmap() == h.annotated.Address.Addr()
}

// isProtectedFor tells whether our finalizer is on the address for a machine of
// this name, or for one that it does not name any more.
func (h holding) isProtectedFor(machine string) bool {
	named := ipam.MachineOf(h.address)
	return ipam.IsProtected(h.address) && (named == "" || named == machine)
}

// isUnprotected tells whether the address needs our finalizer, and can still get it.
func (h holding) isUnprotected() bool {
	return h.address != nil && !ipam.IsProtected(h.address) && h.address.GetDeletionTimestamp().IsZero()
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
	return (m.moving || h.claim != nil && capi.IsMoving(h.claim)) &&
		h.address != nil && h.isProtectedFor(m.name) && !capi.IsMoving(h.address) && !hasMoved(h.address)
}

// isUnexplained tells whether nobody frees the address, and nobody knows how it
// came to that: this leader saw neither machine nor claim go. The machine may
// live in another management cluster.
func (h holding) isUnexplained() bool {
	return h.claim == nil && !h.departed && !hasMoved(h.address) &&
		h.address.GetDeletionTimestamp().IsZero() && h.address.GetAnnotations()[ipam.MachineUIDAnnotation] != ""
}

// isSpare tells whether the address was protected for the machine while it was
// admitted, but another one was given to it.
func (h holding) isSpare(m machineState) bool {
	return h.claim == nil && h.annotated == nil && h.address != nil && ipam.IsProtected(h.address) &&
		ipam.MachineOf(h.address) == m.name && h.address.GetAnnotations()[ipam.MachineUIDAnnotation] == ""
}

// isSpareClaim tells whether the claim was made for the machine while it was
// admitted, but is not what it was stored with: the same create came in twice, as
// a rule, and the other one asked for less, or for other pools. A claim that had a
// machine once may be what this one has lost, and is not ours to judge.
func (h holding) isSpareClaim(m machineState) bool {
	if !m.exists || m.deleting || h.claim == nil || h.annotated != nil || wasAdopted(h.claim) {
		return false
	}
	adopted := h.address != nil && h.address.GetAnnotations()[ipam.MachineUIDAnnotation] != ""
	return ipam.IsMarked(h.claim, m.name) && len(h.claim.GetOwnerReferences()) == 0 && !adopted
}

// isStillUsed tells whether a spare or a stray address is used all the same, or may be.
func (h holding) isStillUsed() bool {
	return h.vmExists || h.onDevice || h.sharedWith != "" || h.used || h.isPromised()
}

// isPromised tells whether a claim that is no part of the holding has the address, or
// may yet get it. If the machine has another address by that claim, this one is what
// its provider made twice.
func (h holding) isPromised() bool {
	if !h.isMadeForAnother() {
		return false
	}
	return h.madeFor.Address == "" || h.madeFor.Address == h.address.GetName() && !h.rebound
}

// isMadeForAnother tells whether there is a claim that the address was made for, and
// that is no part of the holding.
func (h holding) isMadeForAnother() bool {
	return h.madeFor != nil && (h.claim == nil || h.claim.GetUID() != h.madeFor.GetUID())
}

// isBeingAdmitted tells whether a claim that will stay has got the address which a
// machine has left: another one is being admitted with it, and the cache is behind.
func (h holding) isBeingAdmitted() bool {
	return h.answersClaim() && h.madeFor.GetDeletionTimestamp().IsZero()
}

// answersClaim tells whether the address belongs to the claim that it was made for, and
// not to an earlier one of that name.
func (h holding) answersClaim() bool {
	return h.madeFor != nil && ipam.Answers(h.address, h.madeFor.GetUID())
}

// isStray tells whether the address was made for a claim of ours, or is left of
// one, but leads nowhere: the claim is gone or has another address, no machine has
// it, and it is not protected. metal3 leaves such an address behind when a claim is
// deleted while it binds it, and when its two controllers, one for each claim
// API, bind a claim at once. It would be missing from its pool for ever.
func (h holding) isStray(machine string) bool {
	return h.claim == nil && h.annotated == nil && h.address != nil && !ipam.IsProtected(h.address) && !hasMoved(h.address) &&
		(ipam.MachineOf(h.address) == machine || h.address.GetLabels()[ipam.MachineLabel] == ipam.MachineLabelValue(machine))
}

// wasAnswered tells whether an owner's request was answered with the claim, as far
// as can be seen: its address is protected for a machine.
func (h holding) wasAnswered() bool {
	_, kept := h.requested().GetAnnotations()[ipam.KeptAnnotation]
	return !kept && h.address != nil && ipam.IsProtected(h.address) && ipam.RequesterOf(h.requested()) != ""
}

// isTaken tells whether the address was taken for a machine without its provider, and has no
// claim yet. It bears the marks of the request in its place.
func (h holding) isTaken() bool {
	return h.claim == nil && h.address != nil && ipam.IsTaken(h.address)
}

// isTakenOnDevice tells whether the machine has an address on a device that was taken for it,
// whatever its annotation says.
func (h holding) isTakenOnDevice(m machineState) bool {
	return h.isTaken() && h.onDevice && h.sharedWith == "" && ipam.MachineOf(h.address) == m.name
}

// requested is what bears the marks of the request: the claim, or an address that was taken.
func (h holding) requested() client.Object {
	if h.isTaken() {
		return h.address.Object
	}
	return h.claim.Object
}

// isOrphan tells whether the claim waits for a machine of this name that never
// came. A claim with an owner is the garbage collector's, and one that cools down waits
// for nobody.
func isOrphan(claim client.Object, machine string) bool {
	return ipam.IsMarked(claim, machine) &&
		len(claim.GetOwnerReferences()) == 0 &&
		claim.GetDeletionTimestamp().IsZero() && !ipam.IsReleased(claim)
}

// wasAdopted tells whether the claim had a machine once. Then it is here without
// one because a backup was restored, as a rule: that strips owners, and brings
// claims before machines.
func wasAdopted(claim client.Object) bool {
	_, requested := claim.GetAnnotations()[ipam.RequestedByAnnotation]
	return !requested
}

// graceOf is the grace period of a claim without a machine. That its Cluster does
// not exist either is no reason to be quick: a backup brings that last.
func graceOf(claim client.Object, grace time.Duration) time.Duration {
	if wasAdopted(claim) {
		return max(grace, restorePatience)
	}
	return grace
}

// lastUsed is the latest of when a request used the claim, when it was made, and
// when this leader first saw it as it is.
func (h holding) lastUsed(now time.Time) time.Time {
	return latest(now, h.seen, timesOf(h.claim)...)
}

// lastMade is lastUsed for an address.
func (h holding) lastMade(now time.Time) time.Time {
	return latest(now, h.seen, timesOf(h.address)...)
}

// lastRequested is it for what bears the marks of the request.
func (h holding) lastRequested(now time.Time) time.Time {
	return latest(now, h.seen, timesOf(h.requested())...)
}

// timesOf are when an object was made, and when a request used it.
func timesOf(obj client.Object) []time.Time {
	times := []time.Time{obj.GetCreationTimestamp().Time}
	if stamp, err := ipam.StampOf(obj); err == nil {
		times = append(times, stamp.Time)
	}
	return times
}

// latest is the latest of when this leader saw an object, by its own clock, and of
// times by the clocks of others: what is in the future by this one says nothing.
func latest(now, seen time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if t.After(seen) && !t.After(now) {
			seen = t
		}
	}
	return seen
}
