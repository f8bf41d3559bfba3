package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// adopt protects the address first and then makes the claim the machine's own,
// so that the claim never goes with its owner while the address is unprotected.
func (r *Reconciler) adopt(ctx context.Context, s *state, h *holding) error {
	if err := r.protect(ctx, s, h); err != nil {
		return err
	}
	if err := r.takeOver(ctx, s, h); err != nil {
		return err
	}
	return ipam.Owners{Client: r.client, Providers: r.providers, Cached: r.pools, Live: r.live}.Restore(ctx, h.address, h.claim)
}

// takeOver makes a claim the machine's own.
func (r *Reconciler) takeOver(ctx context.Context, s *state, h *holding) error {
	before := h.claim.DeepCopyObject().(client.Object)
	r.markOwned(h.claim.Object, s, h.annotated)
	if err := ipam.NoteTakenOver(h.claim.Object, before); err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(before, h.claim.Object) {
		return nil
	}
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	if err := r.patch(ctx, h.claim.Object, before); err != nil {
		return fmt.Errorf("adopting claim %s: %w", klog.KObj(h.claim), err)
	}
	klog.FromContext(ctx).Info("Adopted a binding", "claim", klog.KObj(h.claim), "address", h.annotated.Address)
	r.tellBound(s, h.annotated)
	return nil
}

// markOwned writes into a claim that it is the machine's: the mark, the owner, what
// makes clusterctl move it, a request for the address that it has, and what
// keeps the provider from freeing that. It is not a request's any more.
func (r *Reconciler) markOwned(claim client.Object, s *state, b *ipam.Binding) {
	ipam.Mark(claim, identityOf(s.object))
	ipam.Readopt(claim)
	annotations := claim.GetAnnotations()
	delete(annotations, ipam.RequestedByAnnotation)
	claim.SetAnnotations(annotations)
	capi.Own(claim, r.client.Scheme(), s.name, s.uid)
	provider := r.providers.For(b.Pool)
	if requester, ok := provider.(ipam.Requester); ok {
		requester.Request(claim, b.Address.Addr())
	}
	if provider.Traits().KeepsFinalizedClaims {
		controllerutil.AddFinalizer(claim, ipam.InUseFinalizer)
	}
}

func identityOf(machine client.Object) ipam.Machine {
	labels := machine.GetLabels()
	return ipam.Machine{
		NamespacedName: client.ObjectKeyFromObject(machine),
		Cluster:        labels[clusterv1.ClusterNameLabel], WatchFilter: labels[clusterv1.WatchLabel],
	}
}

// protect puts our finalizer on the address and writes on it whose it is.
func (r *Reconciler) protect(ctx context.Context, s *state, h *holding) error {
	address := h.address.Object
	before := address.DeepCopyObject().(client.Object)
	// Whoever made its claim may have died before this was written.
	if h.claim != nil && ipam.IsTaken(address) {
		if err := r.handOver(address, h.claim.Object); err != nil {
			return err
		}
	}
	ipam.Protect(address, s.name)
	kube.SetAnnotation(address, ipam.MachineUIDAnnotation, string(s.uid))
	ipam.DropFormerOwners(h.address, h.claim)
	if equality.Semantic.DeepEqual(before, address) {
		return nil
	}
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	if err := r.patch(ctx, address, before); err != nil {
		return fmt.Errorf("protecting address %s: %w", klog.KObj(address), err)
	}
	return nil
}

// confirm checks that the machine which the cache shows is the one that lives, and says the
// same of its bindings: tying a claim to a machine that is gone would have it collected as
// garbage, and one that was moved to another pool meanwhile has given it back.
func (r *Reconciler) confirm(ctx context.Context, s *state) error {
	if s.confirmed {
		return nil
	}
	machine := &capi.VSphereMachine{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(s.object), machine); err != nil {
		return fmt.Errorf("confirming the machine: %w", err)
	}
	return s.confirmBy(machine)
}

// confirmBy is confirm for a machine that the API server has shown.
func (s *state) confirmBy(machine *capi.VSphereMachine) error {
	if machine.UID != s.uid || !saysTheSame(machine, s.object) {
		return changed(s.name)
	}
	s.confirmed = true
	return nil
}

// saysTheSame tells whether a machine says the same of its bindings as it did before. What
// cannot be read says nothing, and is not in the cache.
func saysTheSame(now, before client.Object) bool {
	is, was := now.GetAnnotations(), before.GetAnnotations()
	if is[ipam.MigratingAnnotation] != was[ipam.MigratingAnnotation] {
		return false
	}
	_, err := ipam.ParseBindings(is[ipam.BindingsAnnotation])
	return err != nil || is[ipam.BindingsAnnotation] == was[ipam.BindingsAnnotation]
}

// patch writes the difference against the resourceVersion that was read.
func (r *Reconciler) patch(ctx context.Context, obj, before client.Object) error {
	return kube.PatchAsRead(ctx, r.client, obj, before)
}

// confirmUse is confirm for a step that claims an address anew: it also checks that
// one of the machine's devices has it. What an annotation says alone, anybody may
// have written.
func (r *Reconciler) confirmUse(ctx context.Context, s *state, b *ipam.Binding) (bool, error) {
	machine := &capi.VSphereMachine{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(s.object), machine); err != nil {
		return false, fmt.Errorf("confirming the machine: %w", err)
	}
	if err := s.confirmBy(machine); err != nil {
		return false, err
	}
	return deviceOf(machine, b.Address.Addr()) >= 0, nil
}

// changed is the error for a machine that is not what the cache shows any more.
func changed(machine string) error {
	return apierrors.NewConflict(schema.GroupResource{Group: capi.VSphereMachineKind.Group, Resource: "vspheremachines"}, machine, errors.New("it was replaced, or is held by other claims by now"))
}

// deviceOf is the index of the device that has an address, negative if none has.
func deviceOf(machine *capi.VSphereMachine, ip netip.Addr) int {
	return slices.IndexFunc(machine.Spec.Network.Devices, func(device capi.Device) bool {
		return slices.ContainsFunc(device.IPAddrs, func(text string) bool { return capi.ParseAddress(text) == ip })
	})
}
