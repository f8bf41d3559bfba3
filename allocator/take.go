package allocator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

var (
	// errNotTaken says that no address could be taken without the provider, which is to be
	// asked.
	errNotTaken = errors.New("no address was taken")
	// errTryNext says that one address could not be taken, and others may be.
	errTryNext = errors.New("the address is not to be had")
)

// takes tells whether an allocation's address is taken without its provider: one for a
// machine that is being admitted, and that there is no claim for yet. A claim that exists
// is the provider's to bind; and what asks for a given address, or late, can wait for it.
func (a *Allocator) takes(al *allocation) bool {
	return a.TakesAddresses && al.pool.Taking != nil && (al.isNew || al.isTaken) && !al.used &&
		!al.isStored() && al.Machine.Kind == ipam.OfMachine && !al.want.IP.IsValid()
}

// take gives an allocation an address without its provider: it makes the address object,
// of whose name there can be one, marked for the machine and protected from its first
// moment. It returns errNotTaken if no address is to be had like that.
func (a *Allocator) take(ctx context.Context, al *allocation) (ipam.Binding, error) {
	// Two requests for one machine are to come to one address, not to take one each.
	_, done, err := a.taking.enter(ctx, queueKey{key: al.claimKey()})
	if err != nil {
		return ipam.Binding{}, notBoundInTime(al)
	}
	defer done()
	before, err := a.takenBefore(ctx, al, al.want.Pool)
	if err != nil {
		return ipam.Binding{}, err
	}
	if before != nil {
		return a.retake(ctx, al, client.ObjectKeyFromObject(before))
	}
	for {
		binding, busy, err := a.takeAny(ctx, al)
		if busy == nil || !errors.Is(err, errNotTaken) {
			return binding, err
		}
		// Whether the last ones are free shows when the requests beside this one have them. A
		// cache that is far behind is not waited for.
		select {
		case <-busy:
		case <-time.After(recheckInterval):
			return ipam.Binding{}, errNotTaken
		case <-ctx.Done():
			return ipam.Binding{}, notBoundInTime(al)
		}
	}
}

// takeAny takes the first address that is to be had. If there is none, it also returns what
// ends when one that another request is taking is there, or is not, nil if there is no such.
func (a *Allocator) takeAny(ctx context.Context, al *allocation) (_ ipam.Binding, busy <-chan struct{}, _ error) {
	for ip := range al.pool.Taking.Addresses(al.claimKey()) {
		binding, err := a.takeAddress(ctx, al, ip)
		if other := (*inFlightError)(nil); errors.As(err, &other) {
			busy = other.over
			continue
		}
		if !errors.Is(err, errTryNext) {
			return binding, nil, err
		}
	}
	return ipam.Binding{}, busy, errNotTaken
}

// inFlightError says that another request is taking an address.
type inFlightError struct{ flight }

// Error implements error.
func (*inFlightError) Error() string { return "another request is taking the address" }

// takenBefore is the address object of a pool for the claim of an allocation that the cache
// has, nil if there is none. Whatever it is, the provider would give the claim no other.
func (a *Allocator) takenBefore(ctx context.Context, al *allocation, pool ipam.PoolReference) (client.Object, error) {
	if used, counted := ipam.UsedBy(a.client, al.Machine.Namespace, pool); counted && !used.HasClaim(al.claimKey()) {
		return nil, nil
	}
	provider := a.providers.For(pool)
	addresses, err := kube.List(ctx, a.client, ipam.EmptyAddress(provider), client.InNamespace(al.Machine.Namespace),
		client.MatchingFields{byClaim: al.claim}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of claim %s: %w", al.claimKey(), err)
	}
	i := slices.IndexFunc(addresses, func(obj client.Object) bool { return provider.ReadAddress(obj).Pool == pool })
	if i < 0 {
		return nil, nil
	}
	return addresses[i], nil
}

// takeAddress takes one address. It returns errTryNext if that is not to be had.
func (a *Allocator) takeAddress(ctx context.Context, al *allocation, ip netip.Addr) (ipam.Binding, error) {
	obj := al.pool.Taking.Object(al.claim, ip)
	key := client.ObjectKeyFromObject(obj)
	begun, other := a.inFlight.begin(key, al.claimKey())
	switch {
	case !begun && other.claim == al.claimKey():
		// An earlier request for the machine has taken it, and the cache is behind.
		return a.collide(ctx, al, key)
	case !begun:
		return ipam.Binding{}, &inFlightError{other}
	}
	binding, err := a.judge(ctx, al, al.provider.ReadAddress(obj))
	if err != nil {
		a.inFlight.end(key)
		return ipam.Binding{}, nextIfUnfit(err)
	}
	a.signTaken(obj, al, al.Stamp)
	al.took = key.Name
	err = a.client.Create(ctx, obj)
	switch {
	case err == nil:
		addressesTaken.Inc()
		klog.FromContext(ctx).Info("Took an address", "address", klog.KObj(obj), "ip", ip)
		return a.confirmTaken(ctx, al, obj, binding)
	case apierrors.IsAlreadyExists(err):
		addressCollisions.Inc()
		return a.collide(ctx, al, key)
	}
	a.inFlight.end(key)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return ipam.Binding{}, namespaceGone(al)
	}
	return ipam.Binding{}, notWritten(ctx, al, obj, err)
}

// nextIfUnfit is errTryNext for what is wrong with one address alone.
func nextIfUnfit(err error) error {
	if unfit := (*ipam.Unfit)(nil); errors.As(err, &unfit) {
		return errTryNext
	}
	return err
}

// signTaken marks an address in the way of its claim, and protects it.
func (a *Allocator) signTaken(address client.Object, al *allocation, stamp ipam.Stamp) {
	a.sign(address, al, stamp)
	ipam.ProtectFor(address, al.Machine.Holder())
	if network := al.want.Network(); network != "" {
		kube.SetAnnotation(address, ipam.NetworkAnnotation, network)
	}
}

// collide decides about an address that somebody else has taken. It may have been another
// request for the same machine, at another replica.
func (a *Allocator) collide(ctx context.Context, al *allocation, key client.ObjectKey) (ipam.Binding, error) {
	al.took = ""
	obj := ipam.EmptyAddress(al.provider)
	err := a.live.Get(ctx, key, obj)
	switch {
	case kube.IsAbsent(err):
		a.inFlight.end(key)
		return ipam.Binding{}, errTryNext
	case err != nil:
		return ipam.Binding{}, fmt.Errorf("reading address %s: %w", key, err)
	case al.provider.ReadAddress(obj).Claim != al.claim:
		return ipam.Binding{}, errTryNext
	}
	return a.retake(ctx, al, key)
}

// retake uses an address that an earlier request for the same machine took. The stamp is
// written against the version that was judged, so that who takes the address back, or reaps
// it, by an older look at it fails.
func (a *Allocator) retake(ctx context.Context, al *allocation, key client.ObjectKey) (binding ipam.Binding, err error) {
	if err := a.checkMachineInAPI(ctx, *al.Request); err != nil {
		return ipam.Binding{}, err
	}
	err = kube.RetryOnConflict(func() error {
		obj := ipam.EmptyAddress(al.provider)
		if err := a.live.Get(ctx, key, obj); err != nil {
			if kube.IsAbsent(err) {
				return terminating(al)
			}
			return fmt.Errorf("reading address %s: %w", key, err)
		}
		address := al.provider.ReadAddress(obj)
		if ipam.IsReleased(obj) {
			return a.coolingDown(al, address.Claim, address.Pool)
		}
		if !ipam.IsTaken(obj) || ipam.HolderOf(obj) != al.Machine.Holder() || address.Pool != al.want.Pool {
			// What an earlier machine of the name, or its VM, is behind; or what waits to be
			// reaped, of another pool.
			return terminating(al)
		}
		if binding, err = a.judge(ctx, al, address); err != nil {
			return err
		}
		before := obj.DeepCopyObject().(client.Object)
		a.signTaken(obj, al, al.Stamp.Again())
		if err := kube.PatchAsRead(ctx, a.client, obj, before); err != nil {
			return err
		}
		klog.FromContext(ctx).Info("Using an address that was taken before", "address", key)
		return a.confirmPromised(ctx, al, obj, binding)
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return ipam.Binding{}, terminating(al)
	}
	return binding, err
}

// confirmTaken looks, now that an address is the machine's, whether it may be given to it,
// and gives it back if not.
func (a *Allocator) confirmTaken(ctx context.Context, al *allocation, obj client.Object, binding ipam.Binding) (ipam.Binding, error) {
	err := a.confirmPromised(ctx, al, obj, binding)
	if err == nil {
		err = a.confirmPool(ctx, al)
	}
	if err == nil {
		return binding, nil
	}
	if next := nextIfUnfit(err); !errors.Is(next, errTryNext) && !errors.Is(err, errNotTaken) {
		return ipam.Binding{}, err
	}
	if err := a.takeBackAddress(ctx, al); err != nil {
		return ipam.Binding{}, err
	}
	return ipam.Binding{}, nextIfUnfit(err)
}

// confirmPromised looks for whom else the address may have been given to: by the provider to
// a claim of the other API, or here to a machine in another pool.
func (a *Allocator) confirmPromised(ctx context.Context, al *allocation, obj client.Object, binding ipam.Binding) error {
	if err := a.checkGivenOnce(ctx, al.provider, al.pool, al.provider.ReadAddress(obj), binding.Address.Addr()); err != nil {
		return err
	}
	if err := a.promise(ctx, al, binding); err != nil {
		return err
	}
	return a.checkProtectedOnce(ctx, al, binding)
}

// confirmPool returns errNotTaken if the pool is not the one any more by which an address
// was chosen: the cache may have it from before a range was taken away, or given to a claim.
func (a *Allocator) confirmPool(ctx context.Context, al *allocation) error {
	gvk, err := a.client.GroupVersionKindFor(al.pool.Object)
	if err != nil {
		return fmt.Errorf("finding the kind of %s: %w", al.poolName(), err)
	}
	now := kube.MetadataOf(gvk)
	err = a.live.Get(ctx, client.ObjectKeyFromObject(al.pool), now)
	switch {
	case kube.IsAbsent(err):
		return errNotTaken
	case err != nil:
		return fmt.Errorf("reading %s: %w", al.poolName(), err)
	case now.GetUID() != al.pool.GetUID() || now.GetGeneration() != al.pool.GetGeneration() || !now.GetDeletionTimestamp().IsZero():
		return errNotTaken
	}
	return nil
}

// takeBackAddress deletes the address that a request took, unless another one has used it
// since, or its machine exists.
func (a *Allocator) takeBackAddress(ctx context.Context, al *allocation) error {
	if al.took == "" {
		return nil
	}
	obj, key := ipam.EmptyAddress(al.provider), client.ObjectKey{Namespace: al.Machine.Namespace, Name: al.took}
	defer a.inFlight.end(key)
	if err := a.live.Get(ctx, key, obj); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !ipam.IsTaken(obj) || obj.GetAnnotations()[ipam.LastUsedAnnotation] != al.Stamp.String() {
		return nil
	}
	exists, err := holderExists(ctx, a.live, al.Machine.Namespace, al.Machine.Holder())
	if err != nil || exists {
		return err
	}
	al.took = ""
	return GiveBack(ctx, a.client, al.provider, al.provider.ReadAddress(obj))
}
