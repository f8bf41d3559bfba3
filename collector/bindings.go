package collector

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
)

// bindingState is what became of a binding of a machine.
type bindingState string

const (
	held      bindingState = "held"
	unadopted bindingState = "unadopted"
	releasing bindingState = "releasing"
	lost      bindingState = "lost"
	// untold is what a machine says, and nothing else does: its text may be a copy.
	untold bindingState = ""
)

// countBindings counts the machines' bindings by state. Those of a provider whose objects
// are not all seen are left out: they would look lost.
func countBindings(graph *inventory.Graph, isSeen func(ipam.PoolReference) bool) map[bindingState]int {
	counts := map[bindingState]int{held: 0, unadopted: 0, releasing: 0, lost: 0}
	find := newFinder(graph)
	for _, machine := range graph.Machines {
		for _, binding := range machine.Bindings {
			if !isSeen(binding.Pool) {
				continue
			}
			pool := graph.PoolOf(machine.Namespace, binding.Pool)
			if state := stateOf(machine, binding, find.claim(pool, machine.Namespace, binding), find.address(pool, machine.Namespace, binding)); state != untold {
				counts[state]++
			}
		}
	}
	return counts
}

// stateOf is the state of one binding, with its claim and the address that the claim was
// answered with, both nil if missing. It says lost where the controller would report that.
func stateOf(machine *inventory.Machine, binding ipam.Binding, claim *ipam.Claim, address *inventory.Address) bindingState {
	_, moving := machine.Annotations[clusterctlv1.DeleteForMoveAnnotation]
	switch {
	case moving:
		return held
	case allocator.IsDone(machine.VSphereMachine) && controllerutil.ContainsFinalizer(machine.VSphereMachine, ipam.ReleaseFinalizer):
		return releasing
	case claim == nil:
		return stateWithoutClaim(machine, binding, address)
	case capi.OwnerMachine(claim).UID != machine.UID && !ipam.IsMarked(claim, machine.Name):
		return untold
	case claim.Failure != "":
		return lost
	case claim.Address == "" || address == nil || ipam.IsRecreated(claim):
		return unadopted
	case address.IP != binding.Address.Addr():
		return lost
	case capi.OwnerMachine(claim).UID == machine.UID && ipam.IsProtected(address):
		return held
	}
	return unadopted
}

// stateWithoutClaim: then our protection is what keeps the address.
func stateWithoutClaim(machine *inventory.Machine, binding ipam.Binding, address *inventory.Address) bindingState {
	switch {
	case address == nil && !isOnDevice(machine, binding.Address.Addr()):
		return untold
	case address == nil:
		return lost
	case address.GetAnnotations()[ipam.MachineUIDAnnotation] != string(machine.UID) && ipam.MachineOf(address) != machine.Name:
		return untold
	case ipam.IsProtected(address):
		return held
	case address.GetDeletionTimestamp().IsZero():
		return unadopted
	}
	return lost
}

func isOnDevice(machine *inventory.Machine, ip netip.Addr) bool {
	return slices.ContainsFunc(machine.Addresses(), func(place capi.Place) bool { return place.IP == ip })
}

// finder finds claims and addresses of a pool by their names.
type finder struct {
	claims    map[*inventory.Pool]map[types.NamespacedName]*ipam.Claim
	addresses map[*inventory.Pool]map[types.NamespacedName][]*inventory.Address
}

func newFinder(graph *inventory.Graph) *finder {
	f := &finder{
		claims:    map[*inventory.Pool]map[types.NamespacedName]*ipam.Claim{},
		addresses: map[*inventory.Pool]map[types.NamespacedName][]*inventory.Address{},
	}
	for _, pool := range graph.Pools {
		claims := make(map[types.NamespacedName]*ipam.Claim, len(pool.Claims))
		for i := range pool.Claims {
			claim := &pool.Claims[i]
			key := types.NamespacedName{Namespace: claim.GetNamespace(), Name: claim.GetName()}
			// One of that name in another claim API, see ipam.Twinned, is read after the
			// pool's own.
			if claims[key] == nil {
				claims[key] = claim
			}
		}
		addresses := make(map[types.NamespacedName][]*inventory.Address, len(pool.Addresses))
		for i := range pool.Addresses {
			address := &pool.Addresses[i]
			key := types.NamespacedName{Namespace: address.GetNamespace(), Name: address.Claim}
			addresses[key] = append(addresses[key], address)
		}
		f.claims[pool], f.addresses[pool] = claims, addresses
	}
	return f
}

func (f *finder) claim(pool *inventory.Pool, namespace string, binding ipam.Binding) *ipam.Claim {
	return f.claims[pool][types.NamespacedName{Namespace: namespace, Name: binding.Claim}]
}

// address is the one that was made for the claim of a binding, and if there are two, as
// metal3 has been seen to make, the one that the machine has.
func (f *finder) address(pool *inventory.Pool, namespace string, binding ipam.Binding) *inventory.Address {
	candidates := f.addresses[pool][types.NamespacedName{Namespace: namespace, Name: binding.Claim}]
	for _, address := range candidates {
		if address.IP == binding.Address.Addr() {
			return address
		}
	}
	if len(candidates) > 0 {
		return candidates[0]
	}
	return nil
}
