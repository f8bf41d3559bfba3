package lifecycle

import (
	"net/netip"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

const grace = 5 * time.Minute

var (
	now     = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	deleted = metav1.NewTime(now)
)

// The machine is cp-0 with UID "uid"; its claim is cp-0-0 and its address
// 10.0.0.1. Each option changes one thing about them.
func living() machineState { return machineState{name: "cp-0", exists: true, uid: "uid", created: now} }

func old() machineState {
	m := living()
	m.created = now.Add(-adoptionPatience)
	return m
}

func dying() machineState {
	m := living()
	m.deleting, m.done = true, true
	return m
}

func absent() machineState { return machineState{name: "cp-0"} }

type option func(*holding, *ipamv1.IPClaim, *ipamv1.IPAddress)

// bound is a complete, adopted binding, changed by the options.
func bound(options ...option) holding {
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "cp-0-0", UID: "claim", CreationTimestamp: metav1.NewTime(now)}}
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Name: "cp-0"}})
	ipam.Use(claim, ipam.Stamp{Time: now, Request: "request"})
	ownedBy("uid")(nil, claim, nil)
	claim.Status.Address = nil
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Finalizers: []string{ipam.InUseFinalizer},
		Annotations: map[string]string{
			ipam.MachineNameAnnotation: "cp-0",
			ipam.MachineUIDAnnotation:  "uid",
		},
	}}
	address.Labels = map[string]string{ipam.MachineLabel: ipam.MachineLabelValue("cp-0")}
	address.Spec.Address = "10.0.0.1"
	address.Spec.Claim.Name = "cp-0-0"
	h := holding{requestable: true, annotated: &ipam.Binding{
		Pool: metal3.PoolNamed(""), Claim: "cp-0-0", Address: netip.MustParsePrefix("10.0.0.1/24"),
	}}
	for _, change := range options {
		change(&h, claim, address)
	}
	if claim.UID != "" {
		view := metal3.Provider{}.ReadClaim(claim)
		h.claim = &view
	}
	if address.Spec.Address != "" {
		view := metal3.Provider{}.ReadAddress(address)
		h.address = &view
	}
	return h
}

func ownedBy(uid types.UID) option {
	return func(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
		c.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "cp-0", UID: uid}}
	}
}

// spare is an address that was protected for the machine while it was admitted,
// and that it was then not given.
func spare(age time.Duration, options ...option) holding {
	return bound(append([]option{withoutClaim, withoutAnnotation, made(age), func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		delete(a.Annotations, ipam.MachineUIDAnnotation)
	}}, options...)...)
}

// spareClaim is one that a create of the machine made, and that it was then stored
// without: neither its bindings nor its devices have it.
func spareClaim(age time.Duration, options ...option) holding {
	return bound(append([]option{withoutOwner, withoutAnnotation, requested, usedBefore(age), func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		delete(a.Annotations, ipam.MachineUIDAnnotation)
	}}, options...)...)
}

// anothers makes the whole binding that of the machine cp-1.
func anothers(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
	ipam.Mark(c, ipam.Machine{NamespacedName: types.NamespacedName{Name: "cp-1"}})
	c.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: "cp-1", UID: "uid-1"}}
	a.Annotations[ipam.MachineNameAnnotation] = "cp-1"
	a.Annotations[ipam.MachineUIDAnnotation] = "uid-1"
}

// unrequestable makes the provider one that cannot be asked for a given address.
func unrequestable(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)  { h.requestable = false }
func withoutClaim(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress)   { c.UID = "" }
func withoutAddress(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Spec.Address = "" }
func withoutOwner(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress)   { c.OwnerReferences = nil }
func withoutMark(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress)    { c.Labels = nil }
func ofAdapter(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	c.Labels, c.Annotations = nil, nil
}
func anybodys(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	c.OwnerReferences, c.Labels, c.Annotations = nil, nil, nil
}
func withoutStamp(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	delete(c.Annotations, ipam.LastUsedAnnotation)
	c.CreationTimestamp = metav1.NewTime(now.Add(-grace))
}
func withoutAnnotation(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.annotated = nil }
func unprotected(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
	a.Finalizers, a.Annotations = nil, nil
}

// bare takes the finalizers off, as a backup does.
func bare(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Finalizers = nil }
func nameLeft(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
	kube.SetAnnotation(a, ipam.MachineNameAnnotation, "cp-0")
}
func terminatingClaim(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	c.DeletionTimestamp = &deleted
}
func held(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	c.Finalizers = []string{ipamv1.IPClaimFinalizer, ipam.InUseFinalizer}
}
func terminatingAddress(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
	a.DeletionTimestamp = &deleted
}
func otherAddress(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Spec.Address = "10.0.0.9" }
func earlierUID(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
	a.Annotations[ipam.MachineUIDAnnotation] = "earlier"
}
func refused(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	c.Status.ErrorMessage = new("Requested IP not available")
}
func busy(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)         { h.busy = true }
func shared(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)       { h.sharedWith = "other" }
func withVM(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)       { h.vmExists = true }
func paused(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)       { h.paused = true }
func withoutLabel(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Labels = nil }
func made(ago time.Duration) option {
	return func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		a.CreationTimestamp = metav1.NewTime(now.Add(-ago))
	}
}
func claimMade(ago time.Duration) option {
	return func(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
		c.CreationTimestamp = metav1.NewTime(now.Add(-ago))
	}
}
func withoutPool(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.abandoned = true }
func movingClaim(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	c.Annotations[clusterctlv1.DeleteForMoveAnnotation] = ""
}
func usedBefore(age time.Duration) option {
	return func(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
		c.CreationTimestamp = metav1.NewTime(now.Add(-age))
		ipam.Use(c, ipam.Stamp{Time: now.Add(-age), Request: "request"})
	}
}

// requested makes the claim that of a request: no machine has adopted it.
func requested(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	kube.SetAnnotation(c, ipam.RequestedByAnnotation, "none")
}

// requestedFor makes the claim that of a request for a machine of this owner.
func requestedFor(owner types.UID) option {
	return func(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
		kube.SetAnnotation(c, ipam.RequestedByAnnotation, ipam.RequestedBy(ipam.Owner{UID: owner}))
	}
}
func kept(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	kube.SetAnnotation(c, ipam.KeptAnnotation, "")
}
func takenOver(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	kube.SetAnnotation(c, ipam.ForAnnotation, "cp-0")
}

// setAside makes the claim one that keeps its address from being handed out.
func setAside(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	c.Labels, c.Annotations = map[string]string{ipam.SetAsideLabel: ""}, nil
}
func seenBefore(age time.Duration) option {
	return func(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.seen = now.Add(-age) }
}
func stamped(at time.Duration) option {
	return func(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
		ipam.Use(c, ipam.Stamp{Time: now.Add(at), Request: "request"})
	}
}
func departed(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)  { h.departed = true }
func offDevice(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.offDevice = true }
func onDevice(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)  { h.onDevice = true }
func placed(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)    { h.placed = true }
func recreated(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	kube.SetAnnotation(c, ipam.RecreatedAnnotation, "10.0.0.1")
}
func named(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
	c.Status.Address = &corev1.ObjectReference{Name: "address"}
}
func offered(machine string) option {
	return func(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
		c.OwnerReferences, c.Labels, c.Annotations = nil, nil, map[string]string{ipam.ForAnnotation: machine}
	}
}
func movedAway(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
	a.Annotations[ipam.MovedAnnotation] = ""
}

// inAnnotation makes the machine's annotation have it, by what the API server says.
func inAnnotation(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.used = true }

// rebound makes that annotation have the claim of the address with another address.
func rebound(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)   { h.rebound = true }
func foreign(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress)   { h.foreign = true }
func seenMoved(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.moved = true }

// madeFor makes the address one that was made for this claim, which the cache does not
// have, or has elsewhere.
func madeFor(changes ...func(*ipamv1.IPClaim)) option {
	return func(h *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "cp-0-0", UID: "made-for"}}
		for _, change := range changes {
			change(claim)
		}
		a.Name = "address"
		a.OwnerReferences = []metav1.OwnerReference{{Kind: "IPClaim", Name: claim.Name, UID: claim.UID}}
		view := metal3.Provider{}.ReadClaim(claim)
		h.madeFor = &view
	}
}

func naming(address string) func(*ipamv1.IPClaim) {
	return func(c *ipamv1.IPClaim) { c.Status.Address = &corev1.ObjectReference{Name: address} }
}
func going(c *ipamv1.IPClaim)  { c.DeletionTimestamp = &deleted }
func itsOwn(c *ipamv1.IPClaim) { c.UID = "claim" }

// earlierClaims makes the address one that answers an earlier claim of the name.
func earlierClaims(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
	a.OwnerReferences[0].UID = "earlier"
}
