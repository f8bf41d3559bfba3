package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// apiRequestLimit is what the API server grants a whole request
// (--request-timeout), all calls of webhooks included.
const apiRequestLimit = time.Minute

// Held are the bindings of a living machine by the word of its protected
// addresses, from the cache: for when the machine's own annotation is gone. Which
// device has an address, and what stands beside it, is for the machine to say: of
// the address no more than the IP is told, with the longest prefix.
func (a *Allocator) Held(ctx context.Context, machine ipam.Machine, uid types.UID) ([]ipam.Binding, error) {
	addresses, err := a.heldBy(ctx, machine, uid)
	var held []ipam.Binding
	for _, address := range addresses {
		if ip, err := netip.ParseAddr(address.IP); err == nil {
			held = append(held, heldAs(address, ip.Unmap()))
		}
	}
	return held, err
}

// heldAs is what an address tells of its binding.
func heldAs(address ipam.Address, ip netip.Addr) ipam.Binding {
	return ipam.Binding{Pool: address.Pool, Claim: address.Claim, Address: netip.PrefixFrom(ip, ip.BitLen())}
}

func (a *Allocator) heldBy(ctx context.Context, machine ipam.Machine, uid types.UID) ([]ipam.Address, error) {
	var held []ipam.Address
	for _, provider := range a.providers {
		addresses, err := kube.List(ctx, a.client, ipam.EmptyAddress(provider), client.InNamespace(machine.Namespace),
			client.MatchingFields{byHolder: valueOf(machine.Holder())}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of VSphereMachine %s: %w", machine.NamespacedName, err)
		}
		for _, obj := range addresses {
			if isForUID(obj, uid) && !ipam.IsReleased(obj) {
				held = append(held, provider.ReadAddress(obj))
			}
		}
	}
	return held, nil
}

// Kept is the binding of an endpoint of which our protection alone keeps the address: its
// claim was deleted, and the address with it, so that the in-cluster provider gives it to no
// claim until the Cluster that has it is gone. It is nil if the address can be claimed,
// or if there is none.
func (a *Allocator) Kept(ctx context.Context, cluster ipam.Machine, ip netip.Addr) (*ipam.Binding, error) {
	if !ip.IsValid() {
		return nil, nil
	}
	held, err := a.heldBy(ctx, cluster, "")
	if err != nil {
		return nil, err
	}
	for _, address := range held {
		if capi.ParseAddress(address.IP) != ip || address.GetDeletionTimestamp().IsZero() {
			continue
		}
		// The cache may be behind, and the address somebody else's by now.
		now := ipam.EmptyAddress(a.providers.For(address.Pool))
		if err := a.live.Get(ctx, client.ObjectKeyFromObject(address), now); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		if now.GetUID() != address.GetUID() || !ipam.IsProtected(now) {
			return nil, nil
		}
		kept := heldAs(address, ip)
		return &kept, nil
	}
	return nil, nil
}

// isForUID tells whether an address that names a machine means the one with this
// UID. Until it is adopted it says nothing about that.
func isForUID(address client.Object, uid types.UID) bool {
	is := address.GetAnnotations()[ipam.MachineUIDAnnotation]
	return is == "" || is == string(uid)
}

// IsUnderWay tells whether bindings are what an earlier call made for the very
// create that is being admitted: after a webhook behind ours has changed the
// machine, the API server calls a second time, under another UID. Then each claim
// bears the machine's mark and nobody's ownership, was stamped within the time of
// one request, and is answered by just the address that the binding says.
func (a *Allocator) IsUnderWay(ctx context.Context, machine ipam.Machine, bindings []ipam.Binding) (bool, error) {
	for _, b := range bindings {
		// The call before may have been another replica's.
		underWay, err := a.isUnderWay(ctx, a.client, machine, b)
		if err == nil && !underWay {
			underWay, err = a.isUnderWay(ctx, a.live, machine, b)
		}
		if err != nil || !underWay {
			return false, err
		}
	}
	return len(bindings) > 0, nil
}

func (a *Allocator) isUnderWay(ctx context.Context, reader client.Reader, machine ipam.Machine, b ipam.Binding) (bool, error) {
	provider := a.providers.For(b.Pool)
	key := types.NamespacedName{Namespace: machine.Namespace, Name: b.Claim}
	obj := ipam.EmptyClaim(provider)
	if err := reader.Get(ctx, key, obj); kube.IsAbsent(err) {
		return a.isTakenNow(ctx, reader, machine, b)
	} else if err != nil {
		return false, fmt.Errorf("reading claim %s: %w", key, err)
	}
	claim := provider.ReadClaim(obj)
	if !isOfRequest(claim, machine.Name) || claim.Pool != b.Pool {
		return false, nil
	}
	if slot, ok := ipam.SlotOfClaim(obj, machine.Name); !ok || slot != b.Slot() {
		return false, nil
	}

	key.Name = claim.Address
	answer := ipam.EmptyAddress(provider)
	if err := reader.Get(ctx, key, answer); kube.IsAbsent(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("reading address %s: %w", key, err)
	}
	ip, err := netip.ParseAddr(provider.ReadAddress(answer).IP)
	return err == nil && ip.Unmap() == b.Address.Addr() && ipam.Answers(answer, obj.GetUID()) && ipam.MachineOf(answer) == machine.Name &&
		answer.GetDeletionTimestamp().IsZero() && answer.GetAnnotations()[ipam.MachineUIDAnnotation] == "", nil
}

// isTakenNow is isUnderWay for a binding without a claim: its address was taken.
func (a *Allocator) isTakenNow(ctx context.Context, reader client.Reader, machine ipam.Machine, b ipam.Binding) (bool, error) {
	provider := a.providers.For(b.Pool)
	name, ok, err := a.nameTaken(ctx, machine, b)
	if err != nil || !ok {
		return false, err
	}
	key := types.NamespacedName{Namespace: machine.Namespace, Name: name}
	obj := ipam.EmptyAddress(provider)
	if err := reader.Get(ctx, key, obj); kube.IsAbsent(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("reading address %s: %w", key, err)
	}
	address := provider.ReadAddress(obj)
	stamp, err := ipam.StampOf(obj)
	slot, isSlot := ipam.SlotOfClaim(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: address.Claim}}, machine.Name)
	return err == nil && time.Since(stamp.Time) < apiRequestLimit && ipam.IsTaken(obj) && ipam.HolderOf(obj) == machine.Holder() &&
		address.Pool == b.Pool && address.Claim == b.Claim && isSlot && slot == b.Slot() && capi.ParseAddress(address.IP) == b.Address.Addr(), nil
}

// nameTaken is the name of the object of a binding's address, if its pool is one of which
// addresses are taken.
func (a *Allocator) nameTaken(ctx context.Context, machine ipam.Machine, b ipam.Binding) (string, bool, error) {
	pool, err := a.providers.Pool(ctx, a.client, machine, ipam.Want{Pool: b.Pool})
	if _, refused := ipam.AsRefusal(err); refused || err == nil && pool.Taking == nil {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	return pool.Taking.Object(b.Claim, b.Address.Addr()).GetName(), true, nil
}

// isOfRequest tells whether a claim was used for the machine of this name within
// the time of one request, bound, and not adopted.
func isOfRequest(claim ipam.Claim, machine string) bool {
	stamp, err := ipam.StampOf(claim)
	_, requested := claim.GetAnnotations()[ipam.RequestedByAnnotation]
	return err == nil && time.Since(stamp.Time) < apiRequestLimit && requested && claim.Address != "" &&
		ipam.IsMarked(claim, machine) && len(claim.GetOwnerReferences()) == 0 && claim.GetDeletionTimestamp().IsZero()
}
