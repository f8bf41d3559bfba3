package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// promiseTime is how long an address counts as used because a request was answered
// with it: the API server's limit for a request, after which its machine is stored
// and in the caches, or never will be.
const promiseTime = time.Minute

// promise is an address that a machine was answered with, and the claim that it
// answers.
type promise struct {
	machine holderKey
	pool    ipam.PoolReference
	claim   types.NamespacedName
	// taken is the name of the address, if it was taken and has no claim.
	taken string
	// networks are those on which the machine may be.
	networks []string
	at       time.Time
}

// holderKey tells holders apart: a VSphereCluster may have the name of a machine.
type holderKey struct {
	types.NamespacedName
	kind ipam.HolderKind
}

func keyOf(machine ipam.Machine) holderKey {
	return holderKey{NamespacedName: machine.NamespacedName, kind: machine.Kind}
}

// user is the holder as a sentence names it.
func (k holderKey) user() User {
	kind := capi.VSphereMachineKind.Kind
	if k.kind == ipam.OfCluster {
		kind = capi.VSphereClusterKind.Kind
	}
	return User{Kind: kind, NamespacedName: k.NamespacedName}
}

// promised are the addresses that this replica has answered requests with lately.
// It closes the race of two requests at one replica, whose pools overlap: the second
// is refused although neither machine is stored, and no cache shows the address
// object of the first. Devices that name no network count as well, of which address
// objects tell nothing. It knows nothing of other replicas, see checkProtectedOnce.
type promised struct {
	mu        sync.Mutex
	addresses map[netip.Addr][]promise
	swept     time.Time
}

// add notes a promise, and returns those of the address on the same network that
// other machines had before.
func (p *promised) add(ip netip.Addr, next promise) (earlier []promise) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(next.at)
	for _, made := range p.addresses[ip] {
		if made.machine != next.machine && isOnOne(made.networks, next.networks) && next.at.Sub(made.at) < promiseTime {
			earlier = append(earlier, made)
		}
	}
	if p.addresses == nil {
		p.addresses = map[netip.Addr][]promise{}
	}
	p.addresses[ip] = append(p.addresses[ip], next)
	return earlier
}

// isOnOne tells whether machines that may be on these networks may be on the same.
func isOnOne(networks, others []string) bool {
	return slices.ContainsFunc(networks, func(network string) bool {
		return slices.ContainsFunc(others, func(other string) bool { return capi.SameNetwork(network, other) })
	})
}

// drop forgets the promises of an address to a machine, which is in the caches by
// now, or does not get it.
func (p *promised) drop(ip netip.Addr, machine holderKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep(ip, func(made promise) bool { return made.machine != machine })
}

// sweep forgets, now and then, what is too old to count.
func (p *promised) sweep(now time.Time) {
	if now.Sub(p.swept) < promiseTime {
		return
	}
	p.swept = now
	for ip := range p.addresses {
		p.keep(ip, func(made promise) bool { return now.Sub(made.at) < promiseTime })
	}
}

func (p *promised) keep(ip netip.Addr, wanted func(promise) bool) {
	var left []promise
	for _, made := range p.addresses[ip] {
		if wanted(made) {
			left = append(left, made)
		}
	}
	if len(left) == 0 {
		delete(p.addresses, ip)
		return
	}
	p.addresses[ip] = left
}

// promise notes that the machine is answered with the address, or refuses it
// because another machine was a moment ago. A promise whose claim is gone was not
// kept: its machine was refused.
func (a *Allocator) promise(ctx context.Context, al *allocation, b ipam.Binding) error {
	next := promise{
		machine: keyOf(al.Machine), pool: b.Pool, networks: al.want.Networks(), at: time.Now(),
		claim: types.NamespacedName{Namespace: al.Machine.Namespace, Name: b.Claim}, taken: al.took,
	}
	for _, made := range a.promised.add(b.Address.Addr(), next) {
		kept, err := a.isKept(ctx, made)
		if err == nil && !kept {
			a.promised.drop(b.Address.Addr(), made.machine)
			continue
		}
		a.promised.drop(b.Address.Addr(), next.machine)
		if err != nil {
			return err
		}
		return inUse(al, b, []User{made.machine.user()})
	}
	return nil
}

// isKept tells whether a promise may have been kept. One of an address that was taken is
// looked for live: the cache need not have it yet.
func (a *Allocator) isKept(ctx context.Context, made promise) (bool, error) {
	provider := a.providers.For(made.pool)
	claim := ipam.EmptyClaim(provider)
	err := a.client.Get(ctx, made.claim, claim)
	if kube.IsAbsent(err) && made.taken != "" {
		address := ipam.EmptyAddress(provider)
		err := a.live.Get(ctx, types.NamespacedName{Namespace: made.claim.Namespace, Name: made.taken}, address)
		if err != nil && !kube.IsAbsent(err) {
			return true, fmt.Errorf("reading address %q of claim %s: %w", made.taken, made.claim, err)
		}
		holder := ipam.Holder{Kind: made.machine.kind, Name: made.machine.Name}
		return err == nil && address.GetDeletionTimestamp().IsZero() && ipam.IsProtected(address) && ipam.HolderOf(address) == holder, nil
	}
	if err != nil && !kube.IsAbsent(err) {
		return true, fmt.Errorf("reading claim %s: %w", made.claim, err)
	}
	return err == nil && claim.GetDeletionTimestamp().IsZero() && !ipam.IsSetAside(claim), nil
}

// checkProtectedOnce refuses an address that is protected for another machine in
// another pool. It narrows the race of two requests at two replicas, of which neither
// has the promises of the other, and whose machines are not stored yet. Each looks when
// its own address is protected, but in the cache: two that protect within the time that
// a watch takes do not see each other. Only devices that name their network are
// compared, since address objects tell of no others.
func (a *Allocator) checkProtectedOnce(ctx context.Context, al *allocation, b ipam.Binding) error {
	ip := b.Address.Addr()
	for _, provider := range a.providers {
		addresses, err := kube.List(ctx, a.client, ipam.EmptyAddress(provider), client.MatchingFields{byIP: ip.String()}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return fmt.Errorf("listing the addresses that are %s: %w", ip, err)
		}
		for _, obj := range addresses {
			named := ipam.HolderOf(obj)
			holder := holderKey{types.NamespacedName{Namespace: obj.GetNamespace(), Name: named.Name}, named.Kind}
			network, known := obj.GetAnnotations()[ipam.NetworkAnnotation]
			if !known || holder == keyOf(al.Machine) || !obj.GetDeletionTimestamp().IsZero() || !isOnOne([]string{network}, al.want.Networks()) {
				continue
			}
			a.promised.drop(ip, keyOf(al.Machine))
			return inUse(al, b, []User{holder.user()})
		}
	}
	return nil
}
