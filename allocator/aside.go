package allocator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// maxSetAside bounds the addresses of one pool that are set aside. Beyond it
// claims are taken back, as if nothing could be done about their addresses.
const maxSetAside = 256

// UntilStored is for how long an address that was set aside must not be given
// back: another request for the same machine may have been answered with it before,
// and its machine is stored when the address is free again.
func UntilStored(claim client.Object) time.Duration {
	stamp, err := ipam.StampOf(claim)
	if err != nil {
		return 0
	}
	return max(0, apiRequestLimit-time.Since(stamp.Time))
}

// unfitAddress is an address that cannot be given to a device.
type unfitAddress struct {
	*ipam.Unfit
	// network is that of the device.
	network string
	// users are those that have the address, if that is why.
	users []User
}

// asUnfit finds in an error that a device on a network was answered with such an
// address.
func asUnfit(err error, network string) (unfitAddress, bool) {
	bad := unfitAddress{network: network}
	if used := (*usedAddress)(nil); errors.As(err, &used) {
		bad.users = used.users
	}
	return bad, errors.As(err, &bad.Unfit)
}

// setAside makes of the request's claim one that keeps its address from being
// handed out. If the address is one that a living machine has lost, the claim
// becomes that machine's. What it returns is for the user: the refusal of the
// address, where it cannot be set aside.
func (a *Allocator) setAside(ctx context.Context, al *allocation, claim ipam.Claim, bad unfitAddress) error {
	loser, err := a.loserOf(ctx, al, bad)
	if err != nil {
		return err
	}
	if loser == "" {
		full, err := a.isSetAsideFull(ctx, al)
		if err != nil {
			return err
		}
		if full {
			return bad.Unfit
		}
	}
	err = kube.RetryOnConflict(func() error { return a.convert(ctx, al, claim, bad, loser) })
	if err != nil {
		return fmt.Errorf("setting aside an address of %s: %w", al.want.Pool, err)
	}
	log := klog.FromContext(ctx).WithValues("claim", klog.KObj(claim), "address", bad.IP)
	if loser != "" {
		log.Info("Gave an address back to the machine that has it", "holder", klog.KRef(al.Machine.Namespace, loser))
		return nil
	}
	addressesSetAside.WithLabelValues(string(bad.Cause)).Inc()
	log.Info("Set an address aside that no machine can be given", "cause", bad.Cause)
	return nil
}

// convert takes the request's marks off the claim, and puts on it those of what
// it is from now on. Somebody's own claim stays as it is.
func (a *Allocator) convert(ctx context.Context, al *allocation, claim ipam.Claim, bad unfitAddress, loser string) error {
	obj := ipam.EmptyClaim(al.provider)
	if err := a.live.Get(ctx, client.ObjectKeyFromObject(claim), obj); err != nil {
		return fmt.Errorf("reading claim %s: %w", klog.KObj(claim), err)
	}
	stamp := obj.GetAnnotations()[ipam.LastUsedAnnotation]
	found := stamp == al.Stamp.Again().String()
	isRequests := al.owns(obj) || len(obj.GetOwnerReferences()) == 0 && (stamp == al.Stamp.String() || found)
	if ipam.IsOffered(obj) || obj.GetUID() != claim.GetUID() || !isRequests {
		return bad.Unfit
	}
	if err := a.unprotect(ctx, al.provider, al.provider.ReadClaim(obj), al.UID); err != nil {
		return err
	}
	al.disown(obj)
	annotations, labels := obj.GetAnnotations(), obj.GetLabels()
	for _, key := range []string{ipam.RequestedByAnnotation, ipam.MachineNameAnnotation, ipam.ClusterNameAnnotation, ipam.DeviceAnnotation, ipam.FailureDomainsAnnotation, ipam.KeptAnnotation} {
		delete(annotations, key)
	}
	if !found {
		// Else another request may have been answered with it, see UntilStored.
		delete(annotations, ipam.LastUsedAnnotation)
	}
	delete(labels, ipam.MachineLabel)
	obj.SetAnnotations(annotations)
	if loser != "" {
		holder := al.Machine
		holder.Name, holder.Kind = loser, ipam.OfMachine
		ipam.Mark(obj, holder)
		ipam.Use(obj, al.Stamp.Again())
		return a.client.Update(ctx, obj)
	}
	content, err := json.Marshal(ipam.SetAside{IP: bad.IP, Cause: bad.Cause, Network: bad.network})
	if err != nil {
		return fmt.Errorf("writing annotation %s: %w", ipam.SetAsideAnnotation, err)
	}
	kube.SetLabel(obj, ipam.SetAsideLabel, "")
	kube.SetAnnotation(obj, ipam.SetAsideAnnotation, string(content))
	return a.client.Update(ctx, obj)
}

// loserOf names the machine that has an address of the pool by its own bindings
// and lost it there, empty if there is none in the namespace of the request.
func (a *Allocator) loserOf(ctx context.Context, al *allocation, bad unfitAddress) (string, error) {
	for _, user := range bad.users {
		machine, ok := user.Object.(*capi.VSphereMachine)
		if !ok || user.Namespace != al.Machine.Namespace || !machine.DeletionTimestamp.IsZero() {
			continue
		}
		bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
		if err != nil || bindings.Machine != machine.Name {
			continue
		}
		for _, b := range bindings.Bindings {
			if b.Pool != al.want.Pool || b.Address.Addr() != bad.IP {
				continue
			}
			lost, err := a.isLost(ctx, user, b)
			if err != nil || lost {
				return machine.Name, err
			}
		}
	}
	return "", nil
}

// isLost tells whether the claim of a binding is gone, or has no address.
func (a *Allocator) isLost(ctx context.Context, holder User, b ipam.Binding) (bool, error) {
	provider := a.providers.For(b.Pool)
	obj := ipam.EmptyClaim(provider)
	key := client.ObjectKey{Namespace: holder.Namespace, Name: b.Claim}
	err := a.live.Get(ctx, key, obj)
	if kube.IsAbsent(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading claim %s: %w", key, err)
	}
	return provider.ReadClaim(obj).Address == "", nil
}

func (a *Allocator) isSetAsideFull(ctx context.Context, al *allocation) (bool, error) {
	if count, counted := a.Counts.SetAside(al.provider, al.pool.GetNamespace(), al.want.Pool); counted {
		return count >= maxSetAside, nil
	}
	claims, err := kube.List(ctx, a.client, ipam.EmptyClaim(al.provider), client.InNamespace(al.pool.GetNamespace()),
		client.HasLabels{ipam.SetAsideLabel}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return false, fmt.Errorf("listing what is set aside of %s: %w", al.want.Pool, err)
	}
	count := 0
	for _, obj := range claims {
		if al.provider.ReadClaim(obj).Pool == al.want.Pool {
			count++
		}
	}
	return count >= maxSetAside, nil
}

// IsStillUnfit tells whether the cause for which an address was set aside lasts.
// A pool that is gone, or is being deleted, keeps nothing aside, and is nil.
func (a *Allocator) IsStillUnfit(ctx context.Context, claim ipam.Claim, content ipam.SetAside) (pool client.Object, unfit bool, err error) {
	provider := a.providers.For(claim.Pool)
	machine := ipam.Machine{}
	machine.Namespace = claim.GetNamespace()
	want := ipam.Want{Ask: ipam.Ask{Device: ipam.Device{NetworkName: content.Network}}, Pool: claim.Pool}
	read, err := provider.Pool(ctx, a.live, machine, want)
	if refusal, refused := ipam.AsRefusal(err); refused {
		// A pool that is not served for a while may have the same cause later.
		return nil, refusal.Reason == ipam.PoolNotServed, nil
	}
	if err != nil {
		return nil, false, err
	}
	obj := ipam.EmptyAddress(provider)
	err = a.live.Get(ctx, client.ObjectKey{Namespace: claim.GetNamespace(), Name: claim.Address}, obj)
	if kube.IsAbsent(err) {
		return read.Object, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading address %s: %w", claim.Address, err)
	}
	if !provider.Gives(read, content.IP) {
		return read.Object, true, nil
	}
	users, err := a.InUse(ctx, machine, content.Network, content.IP)
	if err != nil || len(users) > 0 {
		return read.Object, len(users) > 0, err
	}
	err = a.checkGivenOnce(ctx, provider, read, provider.ReadAddress(obj), content.IP)
	if _, refused := ipam.AsRefusal(err); refused {
		return read.Object, true, nil
	}
	return read.Object, false, err
}
