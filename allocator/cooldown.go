package allocator

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// coolingCheck is how often it is looked at a pool, of what cools down, that is not
// watched: it may be gone, or say something else by now.
const coolingCheck = time.Minute

// PoolPatience is for how long what cools down waits for its pool, where there is none.
// Where clusterctl moves them to, and where a backup brings them back, a claim may be
// there before its pool.
const PoolPatience = time.Hour

// CoolDown is what is known of the cool-down of an address.
type CoolDown struct {
	// Lasts is for how long the address is to be kept after its holder went, and Lingers
	// for how long its provider keeps it by itself after the claim was deleted.
	Lasts, Lingers time.Duration
	// Over says that there is nothing to keep the address in: the pool goes, or the
	// namespace.
	Over bool
	// Missing says that there is no pool, of what cools down already: it may be about to come.
	Missing bool
	// Unwatched says that nothing tells when the pool changes.
	Unwatched bool
}

// Pair is a claim and its address. One of the two may be missing.
type Pair struct {
	Claim   *ipam.Claim
	Address *ipam.Address
}

// IsClaimed tells whether the claim exists and will stay.
func (p Pair) IsClaimed() bool { return p.Claim != nil && p.Claim.GetDeletionTimestamp().IsZero() }

// IsFreed tells whether nothing is left to be done: the provider finishes what it has
// been told.
func (p Pair) IsFreed() bool {
	protected := p.Address != nil && ipam.IsProtected(p.Address)
	return !protected && !p.IsClaimed() && (p.Claim == nil || !ipam.IsProtected(p.Claim))
}

// isGoing tells whether one of the two is being deleted.
func (p Pair) isGoing() bool {
	return slices.ContainsFunc(p.Objects(), func(obj client.Object) bool { return !obj.GetDeletionTimestamp().IsZero() })
}

// Objects are claim and address, as far as they exist.
func (p Pair) Objects() []client.Object {
	var objects []client.Object
	if p.Claim != nil {
		objects = append(objects, p.Claim.Object)
	}
	if p.Address != nil {
		objects = append(objects, p.Address.Object)
	}
	return objects
}

// pool is that of claim or address.
func (p Pair) pool() ipam.PoolReference {
	if p.Claim != nil {
		return p.Claim.Pool
	}
	return p.Address.Pool
}

// releasedAt is since when neither holder nor VM exist: the latest of what claim and
// address say. What is in the future by this clock says nothing: then it is since they
// were seen.
func (p Pair) releasedAt(seen, now time.Time) time.Time {
	var latest time.Time
	for _, obj := range p.Objects() {
		if at, ok := ipam.ReleasedAt(obj); ok && !at.After(now) && at.After(latest) {
			latest = at
		}
	}
	if latest.IsZero() {
		return seen
	}
	return latest
}

// KeptFor is for how long the address has to be kept here. The time for which the
// provider itself keeps it begins when the claim is deleted; where that is done already
// it may be over, and counts for nothing.
func (d CoolDown) KeptFor(p Pair) time.Duration {
	if p.IsClaimed() {
		return d.Lasts - d.Lingers
	}
	return d.Lasts
}

// Left is after what time it is to be looked again at what cools down, zero if that is
// over.
func (d CoolDown) Left(p Pair, seen, now time.Time) time.Duration {
	left := d.KeptFor(p) - now.Sub(p.releasedAt(seen, now))
	if d.Missing {
		left = PoolPatience - now.Sub(seen)
	}
	switch {
	case left <= 0 || d.Over:
		return 0
	case d.Unwatched, d.Missing:
		return min(left, coolingCheck)
	}
	return left
}

// Cooler reads what pools say of cool-downs, and begins them.
type Cooler struct {
	Providers ipam.Providers
	Client    client.Client
	Live      client.Reader
	// Pools reads pools from the cache.
	Pools  client.Reader
	Events events.EventRecorder
	// ReuseAfter is for how long addresses cool down whose pools say nothing of that.
	ReuseAfter time.Duration
}

// Read finds out what the pool of a claim, or of its address, says. If they cool down
// already, it also matters whether their namespace goes.
func (c Cooler) Read(ctx context.Context, namespace string, p Pair, cooling bool) (CoolDown, error) {
	var d CoolDown
	pool, err := c.poolOf(ctx, namespace, p)
	switch {
	case apierrors.IsForbidden(err):
		// Whoever took the right away is not to hold up machines.
		d = CoolDown{Lasts: c.ReuseAfter, Unwatched: true}
	case err != nil:
		return d, err
	case pool == nil && cooling && !p.isGoing():
		return CoolDown{Missing: true}, nil
	case pool == nil || !pool.GetDeletionTimestamp().IsZero():
		return CoolDown{Over: true}, nil
	default:
		provider := c.Providers.For(p.pool())
		d = CoolDown{Lasts: c.lasts(pool), Lingers: ipam.Lingers(provider, pool), Unwatched: !isWatched(provider, pool)}
	}
	if cooling {
		d.Over, err = c.isNamespaceGoing(ctx, namespace, p)
	}
	return d, err
}

// poolOf reads the pool. A statement that has lost its value in the cache is read where
// it has it.
func (c Cooler) poolOf(ctx context.Context, namespace string, p Pair) (client.Object, error) {
	ref := p.pool()
	provider := c.Providers.For(ref)
	pool, err := provider.Read(ctx, c.Pools, c.Live, namespace, ref)
	if err != nil || pool == nil {
		return nil, err
	}
	if text, says := pool.GetAnnotations()[ipam.ReuseAfterAnnotation]; says && text == "" {
		return provider.Read(ctx, c.Live, c.Live, namespace, ref)
	}
	return pool, nil
}

// lasts is for how long the addresses of a pool cool down. One that does not say so
// legibly is told; new machines are refused until it does.
func (c Cooler) lasts(pool client.Object) time.Duration {
	after, says, err := ipam.ReuseAfter(pool)
	if err != nil {
		c.Events.Eventf(pool, nil, corev1.EventTypeWarning, "ReuseAfterInvalid", "Release",
			"Annotation %s is not a duration: its addresses cool down for %s, the default; write a duration as 5m", ipam.ReuseAfterAnnotation, c.ReuseAfter)
	}
	if !says || err != nil {
		return c.ReuseAfter
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
func (c Cooler) isNamespaceGoing(ctx context.Context, name string, p Pair) (bool, error) {
	if !p.isGoing() {
		return false, nil
	}
	namespace := &corev1.Namespace{}
	err := c.Live.Get(ctx, types.NamespacedName{Name: name}, namespace)
	if kube.IsAbsent(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading namespace %s: %w", name, err)
	}
	return !namespace.GetDeletionTimestamp().IsZero(), nil
}

// Begin takes an address from a holder that is gone, and keeps it for a while. The
// address comes first: as long as the claim is the holder's, all of this is decided again.
func (c Cooler) Begin(ctx context.Context, p Pair, holder ipam.Machine, at time.Time) error {
	address := p.Address.Object
	before := address.DeepCopyObject().(client.Object)
	ipam.CoolAddress(address, holder.Holder(), at)
	if err := kube.PatchAsRead(ctx, c.Client, address, before); err != nil {
		return fmt.Errorf("keeping address %s for a while: %w", klog.KObj(address), err)
	}
	if p.Claim == nil {
		return nil
	}
	claim := p.Claim.Object
	before = claim.DeepCopyObject().(client.Object)
	ipam.CoolClaim(claim, holder, at)
	if equality.Semantic.DeepEqual(before, claim) {
		return nil
	}
	if err := kube.PatchAsRead(ctx, c.Client, claim, before); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("keeping claim %s for a while: %w", klog.KObj(claim), err)
	}
	return nil
}

// Census counts what cools down, by holder. Its zero value is ready for use.
type Census struct {
	mu     sync.Mutex
	counts map[types.NamespacedName]int
}

// Note notes how much of a holder cools down.
func (c *Census) Note(holder types.NamespacedName, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addressesCooling.Add(float64(count - c.counts[holder]))
	if count == 0 {
		delete(c.counts, holder)
		return
	}
	if c.counts == nil {
		c.counts = map[types.NamespacedName]int{}
	}
	c.counts[holder] = count
}
