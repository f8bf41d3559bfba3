package allocator

import (
	"context"
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// accept checks an address, and protects it for the machine.
func (a *Allocator) accept(ctx context.Context, al *allocation, address ipam.Address) (ipam.Binding, error) {
	binding, err := a.judge(ctx, al, address)
	if err != nil {
		return ipam.Binding{}, err
	}
	if err := a.protect(ctx, al, address); err != nil {
		return ipam.Binding{}, err
	}
	// This is not done beside protecting: the later it is looked, the more of what the
	// other controller does at the same moment is there to be seen.
	if err := a.checkGivenOnce(ctx, al.provider, al.pool, address, binding.Address.Addr()); err != nil {
		return ipam.Binding{}, err
	}
	if err := a.promise(ctx, al, binding); err != nil {
		return ipam.Binding{}, err
	}
	return binding, a.checkProtectedOnce(ctx, al, binding)
}

// judge makes a binding of an address that a machine can be given.
func (a *Allocator) judge(ctx context.Context, al *allocation, address ipam.Address) (ipam.Binding, error) {
	if address.Pool != al.want.Pool {
		// metal3 serves claims of the CAPI contract by the name of their pool alone.
		return ipam.Binding{}, ipam.Refuse(ipam.InvalidAddress, "%s was answered for by the provider of another pool of that name, %s: give one of the two another name",
			al.poolName(), address.Pool)
	}
	binding, err := al.provider.Bind(al.pool, address, al.want)
	if err != nil {
		return ipam.Binding{}, err
	}
	if al.want.IP.IsValid() && binding.Address.Addr() != al.want.IP {
		return ipam.Binding{}, ipam.Refuse(ipam.InvalidAddress, "%s has bound claim %q to another address than %s, which %s wants: delete the claim",
			al.poolName(), al.claim, al.want.IP, al.want.AskedBy)
	}
	if al.want.NoGateway || ipam.SaysNoGateway(al.pool) {
		// Only now: an address that is the gateway itself must not be given all the same.
		binding.Gateway = netip.Addr{}
	}
	return binding, a.checkUnused(ctx, al, binding)
}

// checkGivenOnce refuses an address that metal3 has also given to a claim of the
// other API that it serves: its two controllers do not know of each other's
// latest. An address that is of either API is named alike, and each of two
// requests looks when its own exists, so one of them at least sees the other's.
func (a *Allocator) checkGivenOnce(ctx context.Context, provider ipam.Provider, pool ipam.Pool, address ipam.Address, ip netip.Addr) error {
	twinned, ok := provider.(ipam.Twinned)
	if !ok {
		return nil
	}
	twin := twinned.Twin()
	obj := ipam.EmptyAddress(twin)
	err := a.live.Get(ctx, client.ObjectKeyFromObject(address), obj)
	if kube.IsAbsent(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for another address object %s: %w", klog.KObj(address), err)
	}
	if other, err := netip.ParseAddr(twin.ReadAddress(obj).IP); err != nil || other.Unmap() != ip {
		return nil //nolint:nilerr // what is not an address was not given twice
	}
	return &ipam.Unfit{Cause: ipam.GivenTwice, IP: ip, Refusal: ipam.Refuse(ipam.AddressInUse,
		"%s answered with %s, which it gave to an IPAddressClaim, too: use one claim API per pool", pool.Reference.In(pool.GetNamespace()), ip)}
}

// acceptEarly accepts an address that answers the claim before the claim names
// it: the provider takes about as long for that as protecting takes. It returns
// the address's UID, or nothing: what goes wrong here shows again, or not, when
// the claim does name an address.
func (a *Allocator) acceptEarly(ctx context.Context, al *allocation, claim ipam.Claim) (types.UID, ipam.Binding) {
	addresses, err := kube.List(ctx, a.client, ipam.EmptyAddress(al.provider), client.InNamespace(claim.GetNamespace()), client.MatchingFields{byClaim: claim.GetName()})
	if err != nil {
		return "", ipam.Binding{}
	}
	for _, obj := range addresses {
		if !ipam.Answers(obj, claim.GetUID()) || !obj.GetDeletionTimestamp().IsZero() {
			continue
		}
		if binding, err := a.accept(ctx, al, al.provider.ReadAddress(obj)); err == nil {
			return obj.GetUID(), binding
		}
	}
	return "", ipam.Binding{}
}
