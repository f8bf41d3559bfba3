package adoption

import (
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/machine"
)

// outcome is what becomes of a claim of the adapter.
type outcome string

const (
	// adopting: its machine has the address, and the manager adopts it.
	adopting outcome = "is adopted"
	// serving: its machine waits, and gets its address by it.
	serving outcome = "serves a machine that waits"
	// later: nothing is done for its machine until it, or its Cluster, is resumed.
	later outcome = "is adopted when its machine is resumed"
	// unused: its machine lives without the address, and the claim goes with it.
	unused outcome = "is not used by its machine"
	// going: it goes with its machine, which is being deleted, or it is deleted itself.
	going outcome = "goes"
	// left: its machine, or VSphereCluster, does not exist any more.
	left outcome = "is left over"
	// elsewhere: its machine is in another namespace.
	elsewhere outcome = "is of a machine of another namespace"
	// endpoint: its VSphereCluster has the address, and the claim goes with it.
	endpoint outcome = "is that of an endpoint"
	// unwritten: its VSphereCluster was never given the address, and waits.
	unwritten outcome = "was made for an endpoint that was never written"
)

// claim is a claim that the adapter has made.
type claim struct {
	ipam.Claim
	// owner is the reference to its machine or VSphereCluster.
	owner metav1.OwnerReference
	// address is the zero Addr as long as it is not bound.
	address netip.Addr
	outcome outcome
}

// String says what it holds for whom.
func (c claim) String() string {
	text := fmt.Sprintf("claim %s/%s: ", c.GetNamespace(), c.GetName())
	if c.address.IsValid() {
		text += c.address.String() + " "
	}
	return text + fmt.Sprintf("of %s %s", c.owner.Kind, c.owner.Name)
}

func namesOf(claims []claim) []string {
	var texts []string
	for _, c := range claims {
		texts = append(texts, c.String())
	}
	return texts
}

// readClaims finds the claims of the adapter that are not ours yet, and what becomes of each.
// The adapter names them for the machine and its device, or for the VSphereCluster, and has
// that own them.
func (s *state) readClaims() {
	for _, pool := range s.graph.Pools {
		var addresses map[types.NamespacedName]netip.Addr
		for _, each := range pool.Claims {
			owner, ok := ownerOf(each)
			if _, ours := each.GetLabels()[ipam.MachineLabel]; ours || !ok {
				continue
			}
			if addresses == nil {
				addresses = addressesOf(pool)
			}
			c := claim{Claim: each, owner: owner, address: addresses[client.ObjectKeyFromObject(each)]}
			c.outcome = s.judge(c)
			s.claims = append(s.claims, c)
		}
	}
}

// judged are the claims with one of these outcomes.
func (s *state) judged(as ...outcome) []claim {
	return slices.DeleteFunc(slices.Clone(s.claims), func(c claim) bool { return !slices.Contains(as, c.outcome) })
}

// ownerOf is for whom the adapter has made a claim, false if it has not made it.
func ownerOf(c ipam.Claim) (metav1.OwnerReference, bool) {
	for _, owner := range c.GetOwnerReferences() {
		switch owner.Kind {
		case capi.VSphereMachineKind.Kind:
			if _, isSlot := ipam.SlotOfClaim(c, owner.Name); isSlot {
				return owner, true
			}
		case capi.VSphereClusterKind.Kind:
			if owner.Name == c.GetName() {
				return owner, true
			}
		}
	}
	return metav1.OwnerReference{}, false
}

// addressesOf are the addresses of a pool by the claims that they answer.
func addressesOf(pool *inventory.Pool) map[types.NamespacedName]netip.Addr {
	addresses := map[types.NamespacedName]netip.Addr{}
	for _, address := range pool.Addresses {
		addresses[types.NamespacedName{Namespace: address.GetNamespace(), Name: address.Claim}] = address.IP
	}
	return addresses
}

// judge is what becomes of a claim.
func (s *state) judge(c claim) outcome {
	if c.owner.Kind == capi.VSphereClusterKind.Kind {
		return s.judgeEndpoint(c)
	}
	m := s.machines[c.owner.UID]
	switch {
	case m == nil:
		return left
	case m.Namespace != c.GetNamespace():
		return elsewhere
	case !c.GetDeletionTimestamp().IsZero(), !m.DeletionTimestamp.IsZero():
		return going
	case isPaused(m, s.graph.ClusterOf(m)):
		return later
	case c.address.IsValid() && has(m, c.address):
		return adopting
	case s.graph.WaitsFor(m) == "" || s.graph.WaitsFor(m) == inventory.WaitsInVain:
		return unused
	}
	return serving
}

func (s *state) judgeEndpoint(c claim) outcome {
	v := s.clusters[c.owner.UID]
	switch {
	case v == nil:
		return left
	case v.Namespace != c.GetNamespace():
		return elsewhere
	case !c.GetDeletionTimestamp().IsZero(), !v.DeletionTimestamp.IsZero():
		return going
	case v.Spec.ControlPlaneEndpoint.Host != "":
		return endpoint
	case !s.waitsForEndpoint(v), !machine.AsksForEndpoint(v), c.address.IsValid() && s.isUsed(c.address):
		// What is not certain to be nobody's stays.
		return endpoint
	}
	return unwritten
}

// isUsed tells whether a machine, a VM or an endpoint anywhere has an address.
func (s *state) isUsed(ip netip.Addr) bool {
	return slices.ContainsFunc(s.graph.Machines, func(m *inventory.Machine) bool { return has(m, ip) }) ||
		slices.ContainsFunc(s.graph.VMs, func(vm *capi.VSphereVM) bool {
			return slices.ContainsFunc(vm.Addresses(), func(place capi.Place) bool { return place.IP == ip })
		}) ||
		slices.ContainsFunc(s.graph.CAPIClusters, func(c *capi.Cluster) bool { return capi.ParseAddress(c.Spec.ControlPlaneEndpoint.Host) == ip }) ||
		slices.ContainsFunc(s.graph.Clusters, func(c *inventory.Cluster) bool { return capi.ParseAddress(c.Spec.ControlPlaneEndpoint.Host) == ip })
}

// has tells whether a device of a machine has an address.
func has(m *inventory.Machine, ip netip.Addr) bool {
	return slices.ContainsFunc(m.Spec.Network.Devices, func(d capi.Device) bool {
		return slices.ContainsFunc(d.IPAddrs, func(text string) bool { return capi.ParseAddress(text) == ip })
	})
}

// adopted counts the addresses of machines that the manager holds already.
func (s *state) adopted() int {
	count := 0
	for _, m := range s.graph.Machines {
		if controllerutil.ContainsFinalizer(m, ipam.ReleaseFinalizer) {
			count += len(m.Bindings)
		}
	}
	return count
}

// unadopted are what the manager has yet to do, and what is to be done for it.
func (s *state) unadopted() []string {
	texts := namesOf(s.judged(adopting))
	for _, c := range s.judged(unwritten) {
		texts = append(texts, fmt.Sprintf("%s, which was never given it: the claim is deleted, and made anew", c))
	}
	return append(texts, s.waiting()...)
}

// stale are the claims that stay as they are, and of whose owners the garbage collector does
// not know that they exist, nor that they go: the adapter names them in a version of their
// API that newer versions of CAPV do not serve.
func (s *state) stale() []claim {
	return slices.DeleteFunc(s.judged(later, unused, going, endpoint), func(c claim) bool { return s.isServed(c.owner) || !c.GetDeletionTimestamp().IsZero() })
}

// claimNotes tell of claims that the manager does not adopt.
func (s *state) claimNotes() []string {
	var notes []string
	for _, c := range s.claims {
		switch c.outcome {
		case later:
			notes = append(notes, fmt.Sprintf("%s is adopted when the machine, or its Cluster, is resumed; the claim holds the address until then", c))
		case unused:
			notes = append(notes, fmt.Sprintf("%s, which does not use it: the claim goes with it", c))
		case left:
			notes = append(notes, fmt.Sprintf("%s, which does not exist: delete the claim when nothing uses the address", c))
		case elsewhere:
			notes = append(notes, fmt.Sprintf("%s, which is in another namespace: it cannot be adopted; replace the machine, then delete the claim", c))
		case endpoint:
			notes = append(notes, fmt.Sprintf("%s stays, and goes with it", c))
		}
	}
	return notes
}

// isOwned tells whether a Machine owns a machine: nobody else's is given an address.
func isOwned(m *inventory.Machine) bool {
	_, owned := machine.OwnerOf(m)
	return owned
}
