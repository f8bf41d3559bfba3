package release

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
)

// adopt protects the address first and then makes the claim the machine's own,
// so that the claim never goes with its owner while the address is unprotected.
func (r *Reconciler) adopt(ctx context.Context, s *state, h *holding) error {
	if err := r.protect(ctx, s, h); err != nil {
		return err
	}
	before := h.claim.DeepCopyObject().(client.Object)
	r.own(h.claim.Object, s, h.annotated)
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
	r.event(s, corev1.EventTypeNormal, "AddressBound", "Holding %s from %s %s", h.annotated.Address, h.annotated.Pool.Kind, h.annotated.Pool.Name)
	return nil
}

// own writes into a claim that it is the machine's: the mark, the owner, what
// makes clusterctl move it, a request for the address that it has, and what
// keeps the provider from freeing that.
func (r *Reconciler) own(claim client.Object, s *state, b *allocator.Binding) {
	allocator.Mark(claim, identityOf(s.object))
	labels := claim.GetLabels()
	labels[clusterctlv1.ClusterctlMoveLabel] = ""
	claim.SetLabels(labels)
	if len(claim.GetOwnerReferences()) == 0 {
		claim.SetOwnerReferences([]metav1.OwnerReference{r.ownerOf(s.object)})
	}
	provider := r.providers.For(b.Pool)
	provider.Request(claim, b.Address.Addr())
	if provider.HonoursFinalizers() {
		controllerutil.AddFinalizer(claim, allocator.InUseFinalizer)
	}
}

func identityOf(machine client.Object) allocator.Machine {
	return allocator.Machine{NamespacedName: client.ObjectKeyFromObject(machine), Cluster: machine.GetLabels()[clusterv1.ClusterNameLabel]}
}

// protect puts our finalizer on the address and writes on it whose it is. It
// drops owner references to earlier claims of the name, because clusterctl
// passes over an address that has an owner which does not exist.
func (r *Reconciler) protect(ctx context.Context, s *state, h *holding) error {
	address := h.address.Object
	before := address.DeepCopyObject().(client.Object)
	if address.GetDeletionTimestamp().IsZero() {
		controllerutil.AddFinalizer(address, allocator.InUseFinalizer)
	}
	allocator.SetAnnotation(address, allocator.MachineNameAnnotation, s.name)
	allocator.SetAnnotation(address, allocator.MachineUIDAnnotation, string(s.uid))
	address.SetOwnerReferences(slices.DeleteFunc(address.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
		return owner.Name == h.address.Claim && (h.claim == nil || owner.UID != h.claim.GetUID())
	}))
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

// confirm sees that the machine which the cache shows is the one that lives:
// tying a claim to a machine that is gone would have it collected as garbage.
func (r *Reconciler) confirm(ctx context.Context, s *state) error {
	if s.confirmed {
		return nil
	}
	machine := &capi.VSphereMachine{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(s.object), machine); err != nil {
		return fmt.Errorf("confirming the machine: %w", err)
	}
	if machine.UID != s.uid {
		return apierrors.NewConflict(schema.GroupResource{Group: capi.VSphereMachineKind.Group, Resource: "vspheremachines"}, s.name,
			errors.New("it was replaced"))
	}
	s.confirmed = true
	return nil
}

// patch writes the difference against the resourceVersion that was read.
func (r *Reconciler) patch(ctx context.Context, obj, before client.Object) error {
	return r.client.Patch(ctx, obj, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// remake makes a claim again that others deleted while the machine lives, or
// that was lost in a move or a restore. The claim asks for the very address that
// the machine has; a provider that cannot be asked must not bind a new one.
func (r *Reconciler) remake(ctx context.Context, s *state, h *holding) error {
	if h.address != nil {
		if err := r.protect(ctx, s, h); err != nil {
			return err
		}
	}
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	claim := r.providers.For(h.annotated.Pool).NewClaim(h.annotated.Claim, identityOf(s.object), h.annotated.Pool)
	r.own(claim, s, h.annotated)
	allocator.Use(claim, allocator.Stamp{Time: time.Now()})
	if err := r.client.Create(ctx, claim); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return fmt.Errorf("making claim %s again: %w", klog.KObj(claim), err)
	}
	claimsRebuilt.Inc()
	klog.FromContext(ctx).Info("Made a claim again that was missing", "claim", klog.KObj(claim), "address", h.annotated.Address)
	r.event(s, corev1.EventTypeNormal, "ClaimRebuilt", "Claim %s was missing; made it again for %s", claim.GetName(), h.annotated.Address)
	return nil
}

// renew deletes a claim that failed; when it is gone, it is made again.
func (r *Reconciler) renew(ctx context.Context, s *state, h *holding) error {
	r.report(ctx, s, h)
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	if err := r.giveUp(ctx, h.claim.Object); err != nil {
		return fmt.Errorf("deleting claim %s, which failed: %w", klog.KObj(h.claim), err)
	}
	return nil
}

// report says that the machine uses an address that IPAM no longer gives it.
func (r *Reconciler) report(ctx context.Context, s *state, h *holding) {
	addressesLost.Inc()
	klog.FromContext(ctx).Error(nil, "The machine's address is not bound to it", "claim", h.annotated.Claim, "address", h.annotated.Address)
	r.event(s, corev1.EventTypeWarning, "AddressLost",
		"%s %s no longer binds %s to this machine, which uses it: replace the machine, or claim %s for it by hand as %s",
		h.annotated.Pool.Kind, h.annotated.Pool.Name, h.annotated.Address, h.annotated.Address.Addr(), h.annotated.Claim)
}

// restore gives a living machine its annotation and finalizer back, if they
// were lost or never there (the machines of the static IP adapter): for each
// claim of its own whose address is on one of its devices.
func (r *Reconciler) restore(ctx context.Context, s *state) error {
	if !s.exists || s.deleting || s.moving || !s.lacksMarks() {
		return nil
	}
	machine := &capi.VSphereMachine{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(s.object), machine); err != nil {
		return client.IgnoreNotFound(err)
	}
	if machine.UID != s.uid || !machine.DeletionTimestamp.IsZero() {
		return nil
	}
	bindings := allocator.Bindings{Machine: s.name}
	for _, h := range s.holdings {
		if h.annotated == nil {
			h.annotated = restored(machine, s.machineState, h)
		}
		if h.annotated != nil {
			bindings.Bindings = append(bindings.Bindings, *h.annotated)
		}
	}
	if len(bindings.Bindings) == 0 {
		return nil
	}
	text, err := bindings.Encode()
	if err != nil {
		return err
	}
	before := s.object.DeepCopy()
	controllerutil.AddFinalizer(s.object, allocator.ReleaseFinalizer)
	metav1.SetMetaDataAnnotation(&s.object.ObjectMeta, allocator.BindingsAnnotation, text)
	if equality.Semantic.DeepEqual(before, s.object) {
		return nil
	}
	if err := r.patch(ctx, s.object, before); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Restored the finalizer and the bindings annotation", "bindings", len(bindings.Bindings))
	return nil
}

func (s *state) lacksMarks() bool {
	return slices.ContainsFunc(s.holdings, func(h *holding) bool {
		if h.paused || h.isOfEarlierMachine(s.machineState) {
			return false
		}
		return h.annotated == nil && h.claim != nil && h.address != nil ||
			h.annotated != nil && !controllerutil.ContainsFinalizer(s.object, allocator.ReleaseFinalizer)
	})
}

// restored is the binding that a claim and a device agree upon, nil if none.
// What else stands on the device now counts as injected with the address.
func restored(machine *capi.VSphereMachine, m machineState, h *holding) *allocator.Binding {
	if h.claim == nil || h.address == nil || h.sharedWith != "" || !h.claim.GetDeletionTimestamp().IsZero() {
		return nil
	}
	fromAdapter := len(h.claim.GetOwnerReferences()) == 0 && allocator.MachineOf(h.claim) == ""
	if !h.belongsTo(m) && !fromAdapter {
		return nil
	}
	for i, device := range machine.Spec.Network.Devices {
		if h.claim.GetName() != allocator.ClaimName(machine.Name, i) {
			continue
		}
		for _, text := range device.IPAddrs {
			prefix, err := netip.ParsePrefix(text)
			if err != nil || prefix.Addr().String() != h.address.IP {
				continue
			}
			return &allocator.Binding{
				Device:        allocator.Device{Index: i, DeviceName: device.DeviceName, NetworkName: device.NetworkName},
				Pool:          h.claim.Pool,
				Claim:         h.claim.GetName(),
				Address:       prefix,
				Gateway:       gatewayOf(device, prefix.Addr()),
				Nameservers:   device.Nameservers,
				SearchDomains: device.SearchDomains,
			}
		}
	}
	return nil
}

func gatewayOf(device capi.Device, ip netip.Addr) netip.Addr {
	text := device.Gateway6
	if ip.Is4() {
		text = device.Gateway4
	}
	// A gateway that does not parse is not one that was injected.
	gateway, _ := netip.ParseAddr(text)
	return gateway
}
