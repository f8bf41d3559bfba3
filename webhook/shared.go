package webhook

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// maxLookedUp bounds the addresses of one machine that are looked up. It is what
// ipam.MaxDevices devices have with two addresses of each family.
const maxLookedUp = 4 * ipam.MaxDevices

// sharing is an address on a device of the machine that something else has.
type sharing struct {
	device int
	ip     netip.Addr
	user   allocator.User
}

// judgeShared looks for what else has the addresses that a new machine brings
// along. A copied manifest of ours, or one of a machine whose address has gone to
// another since, is refused: it would share that address, and later free it. What
// has a VM of its own is there already, and so is the harm: it is told of, where
// keeping the object out would not mend it. What a user has written into a machine
// of his own is his to judge, and draws a warning.
func (h *Handler) judgeShared(ctx context.Context, req admission.Request, m *machine.Machine) (warnings []string, err error) {
	all, err := h.shared(ctx, m)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if m.IsOurs() && !s.isOfAnotherVM(m) {
			return nil, ipam.Refuse(ipam.AddressInUse, "device %d has %s, which %s uses: remove annotation %s, finalizer %s and the ipAddrs, "+
				"so that the machine gets an address of its own", s.device, s.ip, s.user.In(m.Namespace), ipam.BindingsAnnotation, ipam.ReleaseFinalizer)
		}
		warning := fmt.Sprintf("device %d has %s, which %s uses, too: "+
			"find out whose VM answers there, and replace the other", s.device, s.ip, s.user.In(m.Namespace))
		warnings = append(warnings, warning)
		if m.Spec.ProviderID != "" && !isDryRun(req) {
			h.tellShared(req, m, s, warning)
		}
	}
	return warnings, nil
}

// shared lists what else has an address that is on one of the machine's devices.
func (h *Handler) shared(ctx context.Context, m *machine.Machine) ([]sharing, error) {
	var found []sharing
	lookedUp := 0
	for i, d := range m.Spec.Network.Devices {
		for _, text := range d.IPAddrs {
			ip := capi.ParseAddress(text)
			if lookedUp++; !ip.IsValid() || lookedUp > maxLookedUp {
				continue
			}
			users, err := h.Allocator.InUse(ctx, m.Identity(), d.NetworkName, ip)
			if err != nil {
				return nil, err
			}
			for _, user := range users {
				if !owns(m, user) {
					found = append(found, sharing{device: i, ip: ip, user: user})
				}
			}
		}
	}
	return found, nil
}

// owns tells whether what has an address has it for this machine: its VM, also one
// that a backup has brought back without its owner; or its Cluster, whose endpoint
// may be the address of its only machine.
func owns(m *machine.Machine, user allocator.User) bool {
	if user.Namespace != m.Namespace {
		return false
	}
	switch user.Kind {
	case capi.ClusterKind.Kind:
		return user.Name == m.Identity().Cluster
	case capi.VSphereClusterKind.Kind:
		cluster := m.Identity().Cluster
		return cluster != "" && user.Object.GetLabels()[clusterv1.ClusterNameLabel] == cluster
	case capi.VSphereVMKind.Kind:
		owner := capi.OwnerMachine(user.Object).Name
		return owner == m.Name || owner == "" && (user.Name == m.Name || m.Spec.ProviderID != "")
	}
	return false
}

// isOfAnotherVM tells whether the machine has a VM, and the other user of the
// address is not another object for the same one.
func (s sharing) isOfAnotherVM(m *machine.Machine) bool {
	if m.Spec.ProviderID == "" {
		return false
	}
	other, isMachine := s.user.Object.(*capi.VSphereMachine)
	return !isMachine || other.Spec.ProviderID != m.Spec.ProviderID
}

// tellShared puts it into a metric and into events on both objects that a machine
// was admitted with an address that something else has.
func (h *Handler) tellShared(req admission.Request, m *machine.Machine, s sharing, warning string) {
	sharedAddresses.Inc()
	h.warn(machineIn(req), &ipam.Refusal{Reason: ipam.AddressInUse, Message: warning})
	this := allocator.User{Kind: capi.VSphereMachineKind.Kind, NamespacedName: m.Identity().NamespacedName}
	h.warn(&corev1.ObjectReference{
		APIVersion: h.versionOf(s.user.Kind), Kind: s.user.Kind,
		Namespace: s.user.Namespace, Name: s.user.Name, UID: s.user.Object.GetUID(),
	}, &ipam.Refusal{Reason: ipam.AddressInUse, Message: fmt.Sprintf("%s came with %s, which this object uses, too: "+
		"find out whose VM answers there, and replace the other", this.In(s.user.Namespace), s.ip)})
}

// versionOf is the version in which objects that use addresses are read.
func (h *Handler) versionOf(kind string) string {
	for _, known := range []schema.GroupKind{capi.VSphereMachineKind, capi.VSphereVMKind, capi.VSphereClusterKind, capi.ClusterKind} {
		if known.Kind == kind {
			return capi.InScheme(h.Scheme, known).GroupVersion().String()
		}
	}
	return ""
}
