package lifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get

// coolingCheck is how often it is looked at a pool, of what cools down, that is not
// watched: it may be gone, or say something else by now.
const coolingCheck = time.Minute

// coolDown is what is known of the cool-down of a holding.
type coolDown struct {
	// lasts is for how long the address is to be kept after its machine went, and lingers
	// for how long its provider keeps it by itself after the claim was deleted.
	lasts, lingers time.Duration
	// over says that there is nothing to keep the address in: the pool goes, or the
	// namespace.
	over bool
	// unwatched says that nothing tells when the pool changes.
	unwatched bool
}

// isCooling tells whether the holding is that of a machine that is gone, and is kept for
// a while. It is not if a machine that lives has the binding and the address on a device:
// a backup brought it back, and has not brought back the claim that was still there.
func (h holding) isCooling(m machineState) bool {
	isRestored := m.exists && h.annotated != nil && !h.offDevice
	return h.isReleased(m.name) && !isRestored
}

// isReleased tells whether the last step for the holding was to cool down. That a claim
// which stays says nothing of it is believed: it was adopted, or is not cooled yet.
func (h holding) isReleased(machine string) bool {
	if h.claim != nil && (ipam.IsReleased(h.claim) || h.isClaimed()) {
		return ipam.IsReleased(h.claim) && ipam.IsMarked(h.claim, machine) && capi.OwnerMachine(h.claim).UID == ""
	}
	return h.address != nil && ipam.IsReleased(h.address) && ipam.MachineOf(h.address) == machine && !h.hadMachine()
}

// hadMachine tells whether the address was a stored machine's, by its own word.
func (h holding) hadMachine() bool {
	return h.address != nil && h.address.GetAnnotations()[ipam.MachineUIDAnnotation] != ""
}

// hasToCool tells whether the address is to be kept after its machine. One that is going,
// and not protected, cannot be; one that lives on elsewhere must not come back.
func (h holding) hasToCool() bool {
	if h.address == nil || h.coolDown.over || h.moved || hasMoved(h.address) {
		return false
	}
	return h.keptFor() > 0 && (ipam.IsProtected(h.address) || h.isUnprotected())
}

// keptFor is for how long the address has to be kept here. The time for which the
// provider itself keeps it begins when the claim is deleted; where that is done already
// it may be over, and counts for nothing.
func (h holding) keptFor() time.Duration {
	if h.isClaimed() {
		return h.coolDown.lasts - h.coolDown.lingers
	}
	return h.coolDown.lasts
}

// releasedAt is since when neither machine nor VM exist: the latest of what claim and
// address say. What is in the future by this clock says nothing.
func (h holding) releasedAt(now time.Time) time.Time {
	var latest time.Time
	for _, obj := range h.objects() {
		if at, ok := ipam.ReleasedAt(obj); ok && !at.After(now) && at.After(latest) {
			latest = at
		}
	}
	if latest.IsZero() {
		return h.seen
	}
	return latest
}

// objects are claim and address, as far as they exist.
func (h holding) objects() []client.Object {
	var objects []client.Object
	if h.claim != nil {
		objects = append(objects, h.claim.Object)
	}
	if h.address != nil {
		objects = append(objects, h.address.Object)
	}
	return objects
}

// isFreed tells whether nothing is left to be done here: the provider finishes what it
// has been told.
func (h holding) isFreed() bool {
	protected := h.address != nil && ipam.IsProtected(h.address)
	return !protected && !h.isClaimed() && (h.claim == nil || !ipam.IsProtected(h.claim))
}

// decideCooling releases what has cooled down. While the Cluster is paused, or clusterctl
// moves the claim, that waits.
func decideCooling(m machineState, h holding, now time.Time) (step, time.Duration) {
	left := h.keptFor() - now.Sub(h.releasedAt(now))
	switch {
	case h.paused || h.isMoving():
		return idle, 0
	case h.isFreed():
		return idle, terminatingCheck
	case left > 0 && !h.coolDown.over && h.coolDown.unwatched:
		return idle, min(left, coolingCheck)
	case left > 0 && !h.coolDown.over:
		return idle, left
	case h.vmExists, m.exists && (h.onDevice || h.used):
		return idle, vmCheck
	}
	return release, 0
}

// observeCoolDown finds out what the pool of a holding says of a cool-down, where there
// is one, or where it may be about to begin.
func (r *Reconciler) observeCoolDown(ctx context.Context, s *state, h *holding) error {
	cooling := h.isCooling(s.machineState)
	if cooling && h.isFreed() || !cooling && !h.mayCool(s.machineState) {
		return nil
	}
	pool, err := r.poolOf(ctx, s, h)
	switch {
	case apierrors.IsForbidden(err):
		// Whoever took the right away is not to hold up machines.
		h.coolDown = coolDown{lasts: r.reuseAfter, unwatched: true}
	case err != nil:
		return err
	case pool == nil || !pool.GetDeletionTimestamp().IsZero():
		h.coolDown = coolDown{over: true}
		return nil
	default:
		provider := r.providers.For(h.pool())
		h.coolDown = coolDown{lasts: r.lasts(pool), lingers: ipam.Lingers(provider, pool), unwatched: !isWatched(provider, pool)}
	}
	if cooling {
		h.coolDown.over, err = r.isNamespaceGoing(ctx, s, h)
	}
	return err
}

// mayCool tells whether the next step may be to cool down.
func (h *holding) mayCool(m machineState) bool {
	switch {
	case h.address == nil:
		return false
	case !m.exists || h.isOfEarlierMachine(m):
		return h.hadMachine()
	}
	return m.done
}

// pool is that of claim or address.
func (h *holding) pool() ipam.PoolReference {
	if h.claim != nil {
		return h.claim.Pool
	}
	return h.address.Pool
}

// poolOf reads the pool of a holding. A statement that has lost its value in the cache is
// read where it has it.
func (r *Reconciler) poolOf(ctx context.Context, s *state, h *holding) (client.Object, error) {
	ref := h.pool()
	provider := r.providers.For(ref)
	pool, err := provider.Read(ctx, r.pools, r.live, s.namespace, ref)
	if err != nil || pool == nil {
		return nil, err
	}
	if text, says := pool.GetAnnotations()[ipam.ReuseAfterAnnotation]; says && text == "" {
		return provider.Read(ctx, r.live, r.live, s.namespace, ref)
	}
	return pool, nil
}

// lasts is for how long the addresses of a pool cool down. One that does not say so
// legibly is told; new machines are refused until it does.
func (r *Reconciler) lasts(pool client.Object) time.Duration {
	after, says, err := ipam.ReuseAfter(pool)
	if err != nil {
		r.events.Eventf(pool, nil, corev1.EventTypeWarning, "ReuseAfterInvalid", "Release",
			"Annotation %s is not a duration: its addresses cool down for %s, the default; write a duration as 5m", ipam.ReuseAfterAnnotation, r.reuseAfter)
	}
	if !says || err != nil {
		return r.reuseAfter
	}
	return after
}

// isWatched tells whether a pool is of a kind whose changes are told.
func isWatched(provider ipam.Provider, pool client.Object) bool {
	for _, kind := range provider.PoolKinds() {
		gvk := kind.GetObjectKind().GroupVersionKind()
		if gvk.Empty() || gvk.GroupKind() == pool.GetObjectKind().GroupVersionKind().GroupKind() {
			return true
		}
	}
	return false
}

// isNamespaceGoing tells whether the namespace is being deleted. It is asked only where
// something else is: what is deleted with it would wait for the end of the cool-down.
func (r *Reconciler) isNamespaceGoing(ctx context.Context, s *state, h *holding) (bool, error) {
	going := false
	for _, obj := range h.objects() {
		going = going || !obj.GetDeletionTimestamp().IsZero()
	}
	if !going {
		return false, nil
	}
	namespace := &corev1.Namespace{}
	exists, err := r.exists(ctx, types.NamespacedName{Name: s.namespace}, namespace)
	if err != nil {
		return false, fmt.Errorf("reading namespace %s: %w", s.namespace, err)
	}
	return !exists || !namespace.GetDeletionTimestamp().IsZero(), nil
}

// cool takes a binding from a machine that is gone, and keeps the address for a while.
// The address comes first: as long as the claim has an owner, all of this is decided
// again.
func (r *Reconciler) cool(ctx context.Context, s *state, h *holding) error {
	if h.isReleased(s.name) && !h.hadMachine() {
		return nil
	}
	at := r.now()
	address := h.address.Object
	before := address.DeepCopyObject().(client.Object)
	ipam.CoolAddress(address, s.name, at)
	if err := r.patch(ctx, address, before); err != nil {
		return fmt.Errorf("keeping address %s for a while: %w", klog.KObj(address), err)
	}
	if h.claim != nil {
		claim := h.claim.Object
		before := claim.DeepCopyObject().(client.Object)
		ipam.CoolClaim(claim, ipam.Machine{NamespacedName: s.key(), Cluster: s.clusterOf(h)}, at)
		if !equality.Semantic.DeepEqual(before, claim) {
			if err := r.patch(ctx, claim, before); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("keeping claim %s for a while: %w", klog.KObj(claim), err)
			}
		}
	}
	klog.FromContext(ctx).Info("Keeping an address from being handed out again", "address", h.address.IP, "for", h.coolDown.lasts)
	r.event(s, corev1.EventTypeNormal, "AddressCooling", "Keeping %s from being handed out again for %s", h.address.IP, h.coolDown.lasts)
	return nil
}

// countCooling counts what cools down of one machine.
func (r *Reconciler) countCooling(s *state) {
	count := 0
	for _, h := range s.holdings {
		if h.isCooling(s.machineState) && !h.isFreed() {
			count++
		}
	}
	r.cooling.note(s.key(), count)
}

// census counts what cools down, by machine.
type census struct {
	mu     sync.Mutex
	counts map[types.NamespacedName]int
}

func (c *census) note(machine types.NamespacedName, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addressesCooling.Add(float64(count - c.counts[machine]))
	if count == 0 {
		delete(c.counts, machine)
		return
	}
	if c.counts == nil {
		c.counts = map[types.NamespacedName]int{}
	}
	c.counts[machine] = count
}
