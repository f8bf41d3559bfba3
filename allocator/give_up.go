package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// GiveUp deletes what was claimed for a stored machine and what it does not have by its
// bindings: it asks for nothing any more, for less or for other pools, or it was too late.
// Nobody else would: the machine owns the claims, and lives. What anything uses stays, and
// of a machine that has an address of ours without saying so, everything. It returns
// ErrMachineGone if the machine is gone, and a Refusal if something of it is frozen.
func (a *Allocator) GiveUp(ctx context.Context, machine ipam.Machine, uid types.UID) error {
	req := Request{Machine: machine, UID: uid}
	claims, err := a.madeFor(ctx, req)
	if err != nil {
		return err
	}
	left, err := a.leftOf(ctx, req)
	if err != nil || len(claims)+len(left) == 0 {
		return err
	}
	stored, err := a.storedMachine(ctx, req)
	if err != nil {
		return err
	}
	if err := a.checkThawedOf(ctx, claims, left); err != nil {
		return err
	}
	if _, migrating := ipam.MigrationOf(stored); migrating {
		// The claim that it is moved to is not among its bindings yet.
		return nil
	}
	held, err := a.Held(ctx, machine, uid)
	if err != nil || !isBound(stored) && slices.ContainsFunc(held, func(b ipam.Binding) bool { return has(stored, placeOf(b)) }) {
		return err
	}
	for _, claim := range claims {
		provider := a.providers.OfClaim(claim.Object)
		used, err := a.isUsed(ctx, stored, provider, claim)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		if err := a.giveUp(ctx, req, provider, claim); err != nil {
			return err
		}
	}
	return a.unprotectAll(ctx, req, left)
}

// checkThawedOf refuses to give up claims, or addresses, of which one is frozen.
func (a *Allocator) checkThawedOf(ctx context.Context, claims []ipam.Claim, left []client.Object) error {
	for _, claim := range claims {
		if err := a.checkFrozen(ctx, claim.GetNamespace(), claim.Pool); err != nil {
			return err
		}
	}
	for _, address := range left {
		if err := a.checkFrozen(ctx, address.GetNamespace(), a.providers.OfAddress(address).ReadAddress(address).Pool); err != nil {
			return err
		}
	}
	return nil
}

// placeOf is the address of a binding, on any network.
func placeOf(b ipam.Binding) capi.Place { return capi.Place{IP: b.Address.Addr()} }

// madeFor are the claims that tries for a stored machine have made.
func (a *Allocator) madeFor(ctx context.Context, req Request) ([]ipam.Claim, error) {
	var made []ipam.Claim
	for _, provider := range a.providers {
		objects, err := kube.List(ctx, a.client, ipam.EmptyClaim(provider), client.InNamespace(req.Machine.Namespace),
			client.MatchingFields{byMark: ipam.MachineLabelValue(req.Machine.Name)})
		if err != nil {
			return nil, fmt.Errorf("listing the claims of VSphereMachine %s: %w", req.Machine.NamespacedName, err)
		}
		for _, obj := range objects {
			if req.made(obj) {
				made = append(made, provider.ReadClaim(obj))
			}
		}
	}
	return made, nil
}

// isUsed tells whether a claim is among the bindings of its machine, or whether anything
// has an address of it: a VM that was begun without it may have got it by other ways.
func (a *Allocator) isUsed(ctx context.Context, stored *capi.VSphereMachine, provider ipam.Provider, claim ipam.Claim) (bool, error) {
	if isBound(stored) {
		bindings, err := ipam.ParseBindings(stored.Annotations[ipam.BindingsAnnotation])
		if err != nil {
			return true, nil //nolint:nilerr // what it says cannot be known
		}
		isClaims := func(b ipam.Binding) bool {
			return b.Claim == claim.GetName() && a.providers.For(b.Pool).Name() == provider.Name()
		}
		if slices.ContainsFunc(bindings.Bindings, isClaims) {
			return true, nil
		}
	}
	addresses, err := a.addressesOf(ctx, provider, claim)
	if err != nil {
		return true, err
	}
	for _, address := range addresses {
		if a.mayHave(stored, address) {
			// Its failure domain may put the device on another network than it says; and who
			// has read the claim may have written by hand what was to come.
			return true, nil
		}
		if !ipam.IsProtected(address) {
			// Nobody has been given it. On which network it is to be is not known, and
			// others have the same address on theirs.
			continue
		}
		used, err := a.isAddressUsed(ctx, provider, address)
		if err != nil || used {
			return true, err
		}
	}
	return false, nil
}

// isAddressUsed tells whether anything has an address on its network, also the machine
// that it was claimed for, and its VM.
func (a *Allocator) isAddressUsed(ctx context.Context, provider ipam.Provider, address client.Object) (bool, error) {
	ip, err := netip.ParseAddr(provider.ReadAddress(address).IP)
	if err != nil {
		return false, nil //nolint:nilerr // nothing can have what is not an address
	}
	place := capi.Place{IP: ip.Unmap(), Network: address.GetAnnotations()[ipam.NetworkAnnotation]}
	users, err := Search{Cache: a.client, Live: a.live}.Users(ctx, types.NamespacedName{}, place)
	return len(users) > 0, err
}

// giveUp unprotects the address of a claim of a stored machine, and deletes the claim. In
// this order, since a provider that frees an address writes the list of its finalizers by
// what it had read, and would put ours back. Another leader could still use the claim until
// it is deleted, so that it is marked first.
func (a *Allocator) giveUp(ctx context.Context, req Request, provider ipam.Provider, claim ipam.Claim) error {
	addresses, err := a.addressesOf(ctx, provider, claim)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(addresses, ipam.IsProtected) {
		if err := a.markGivenUp(ctx, claim); err != nil {
			return err
		}
		if err := a.fence(ctx, req, addresses); err != nil {
			return err
		}
		if err := a.unprotect(ctx, provider, claim, req.UID); err != nil {
			return err
		}
	}
	return a.deleteClaim(ctx, claim)
}

// markGivenUp has everybody who reads a claim from now on pass over it.
func (a *Allocator) markGivenUp(ctx context.Context, claim ipam.Claim) error {
	if ipam.IsGivenUp(claim) {
		return nil
	}
	before := claim.DeepCopyObject().(client.Object)
	kube.SetAnnotation(claim, ipam.GivenUpAnnotation, time.Now().UTC().Format(time.RFC3339))
	if err := kube.PatchAsRead(ctx, a.client, claim.Object, before); err != nil {
		return fmt.Errorf("marking claim %s: %w", klog.KObj(claim), err)
	}
	return nil
}

// fence keeps another leader, which does not know yet that it is none, from writing
// addresses into a machine that are about to be freed: it does so by the version that it
// has read, and this makes a new one. Who reads that finds the claim given up. Into a machine
// that is bound nobody writes any. It returns ErrMachineGone if the machine has one of them
// by now.
func (a *Allocator) fence(ctx context.Context, req Request, addresses []client.Object) error {
	return kube.RetryOnConflict(func() error {
		machine, err := a.storedMachine(ctx, req)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(addresses, func(address client.Object) bool { return a.mayHave(machine, address) }) {
			return ErrMachineGone
		}
		if isBound(machine) {
			return nil
		}
		before := machine.DeepCopy()
		stamp := ipam.Stamp{Time: time.Now(), Request: uuid.NewUUID()}
		kube.SetAnnotation(machine, ipam.GivenUpAnnotation, stamp.String())
		if err := kube.PatchAsRead(ctx, a.client, machine, before); err != nil {
			return fmt.Errorf("noting on VSphereMachine %s that a claim is given up: %w", klog.KObj(machine), err)
		}
		return nil
	})
}

// mayHave tells whether a machine has an address on a device, or by its bindings.
func (a *Allocator) mayHave(machine *capi.VSphereMachine, address client.Object) bool {
	ip := capi.ParseAddress(a.providers.OfAddress(address).ReadAddress(address).IP)
	if has(machine, capi.Place{IP: ip}) {
		return true
	}
	if !isBound(machine) {
		return false
	}
	bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	return err != nil || slices.ContainsFunc(bindings.Bindings, func(b ipam.Binding) bool { return b.Address.Addr() == ip })
}

// unprotectLeft unprotects the addresses of a stored machine whose claims are gone: others
// have deleted them while it waited, or a leader died while it gave them up. A claim of the
// same name would wait for them for ever.
func (a *Allocator) unprotectLeft(ctx context.Context, req Request) error {
	if !req.isStored() || req.Machine.Kind == ipam.OfCluster {
		return nil
	}
	left, err := a.leftOf(ctx, req)
	if err != nil || len(left) == 0 {
		return err
	}
	if err := a.checkThawedOf(ctx, nil, left); err != nil {
		return err
	}
	return a.unprotectAll(ctx, req, left)
}

// leftOf are the addresses of a stored machine whose claims are gone, and that nothing uses.
func (a *Allocator) leftOf(ctx context.Context, req Request) ([]client.Object, error) {
	var left []client.Object
	for _, provider := range a.providers {
		objects, err := kube.List(ctx, a.client, ipam.EmptyAddress(provider), client.InNamespace(req.Machine.Namespace),
			client.MatchingFields{byMachineUID: string(req.UID)})
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of VSphereMachine %s: %w", req.Machine.NamespacedName, err)
		}
		for _, obj := range objects {
			isLeft, err := a.isLeft(ctx, provider, obj)
			if err != nil {
				return nil, err
			}
			if isLeft {
				left = append(left, obj)
			}
		}
	}
	return left, nil
}

func (a *Allocator) isLeft(ctx context.Context, provider ipam.Provider, address client.Object) (bool, error) {
	claim := ipam.EmptyClaim(provider)
	key := types.NamespacedName{Namespace: address.GetNamespace(), Name: provider.ReadAddress(address).Claim}
	err := a.live.Get(ctx, key, claim)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading claim %s: %w", key, err)
	}
	if err == nil && ipam.Answers(address, claim.GetUID()) {
		return false, nil
	}
	used, err := a.isAddressUsed(ctx, provider, address)
	return !used && err == nil, err
}

// unprotectAll unprotects addresses that are left of a stored machine.
func (a *Allocator) unprotectAll(ctx context.Context, req Request, left []client.Object) error {
	if len(left) == 0 {
		return nil
	}
	if err := a.fence(ctx, req, left); err != nil {
		return err
	}
	for _, address := range left {
		before := address.DeepCopyObject().(client.Object)
		machine := ipam.MachineOf(address)
		ipam.Unprotect(address)
		if address.GetDeletionTimestamp().IsZero() {
			// Nobody frees it. It is found as a stray one, if no claim of the name gets it.
			kube.SetAnnotation(address, ipam.MachineNameAnnotation, machine)
		}
		if err := kube.PatchAsRead(ctx, a.client, address, before); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("unprotecting address %s: %w", klog.KObj(address), err)
		}
		klog.FromContext(ctx).Info("Unprotected an address whose claim is gone", "address", klog.KObj(address))
	}
	return nil
}
