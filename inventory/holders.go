package inventory

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// State is what becomes of an address.
type State string

// The states of an address. Nobody has one that is free or reserved.
const (
	// Used: a machine, an endpoint or somebody's own claim has it.
	Used State = "used"
	// Cooling: nobody has it any more, and it is kept for a while.
	Cooling State = "cooling"
	// Releasing: its address object is being deleted.
	Releasing State = "releasing"
	// Free: the pool may hand it out.
	Free State = "free"
	// Reserved: the pool gives it to nobody.
	Reserved State = "reserved"
	// Outside: it is in no range of the pool, or the pool does not say which it has.
	Outside State = "outside"
)

// claimOfOthers is the kind of a holder that is no machine and no endpoint of ours.
const claimOfOthers = "claim"

// Holding is an address of a pool with whom it belongs to.
type Holding struct {
	IP        netip.Addr
	State     State
	Address   Address
	Protected bool
	// Since is when the address object was made.
	Since time.Time
	// Kind, Namespace and Name are of the holder: a VSphereMachine, a VSphereCluster, or
	// the claim of somebody else.
	Kind string
	types.NamespacedName
	// Device is the device of the machine that holds it.
	Device ipam.Device
	// Cluster is the CAPI Cluster, empty if it is not known.
	Cluster string
	// VM is what is known of the machine's VM.
	VM string
}

// Holdings are the addresses of a pool that somebody has, in their order. Of two objects
// of one address, that of a holder is shown.
func (g *Graph) Holdings(p *Pool) []Holding {
	byIP := map[netip.Addr]Holding{}
	for _, address := range p.Addresses {
		if !address.IP.IsValid() {
			continue
		}
		holding := g.holding(address)
		if before, known := byIP[address.IP]; known && before.State == Used {
			continue
		}
		byIP[address.IP] = holding
	}
	holdings := make([]Holding, 0, len(byIP))
	for _, holding := range byIP {
		holdings = append(holdings, holding)
	}
	slices.SortFunc(holdings, func(a, b Holding) int { return a.IP.Compare(b.IP) })
	return holdings
}

func (g *Graph) holding(address Address) Holding {
	h := Holding{
		IP: address.IP, State: Used, Address: address, Protected: ipam.IsProtected(address.Object),
		Since: address.GetCreationTimestamp().Time, Kind: claimOfOthers,
		NamespacedName: types.NamespacedName{Namespace: address.GetNamespace(), Name: address.Claim},
		Cluster:        address.GetLabels()[clusterv1.ClusterNameLabel],
	}
	switch {
	case address.IsCooling():
		h.State = Cooling
	case !address.GetDeletionTimestamp().IsZero() && !h.Protected:
		h.State = Releasing
	}
	if holder := ipam.HolderOf(address.Object); holder.Name != "" {
		h.Kind, h.Name = cmp.Or(string(holder.Kind), capi.VSphereMachineKind.Kind), holder.Name
	}
	if m := g.machineOf(address); m != nil {
		h.Kind, h.Name = capi.VSphereMachineKind.Kind, m.Name
		h.Cluster = cmp.Or(m.Labels[clusterv1.ClusterNameLabel], h.Cluster)
		h.VM = g.VMState(m)
		if i := slices.IndexFunc(m.Bindings, func(b ipam.Binding) bool { return b.Claim == address.Claim }); i >= 0 {
			h.Device = m.Bindings[i].Device
		}
	}
	return h
}

// machineOf is the machine that holds an address, by its bindings.
func (g *Graph) machineOf(address Address) *Machine {
	m := g.byClaim[types.NamespacedName{Namespace: address.GetNamespace(), Name: address.Claim}]
	if m == nil || !slices.ContainsFunc(m.Bindings, func(b ipam.Binding) bool { return b.Claim == address.Claim && b.Pool == address.Pool }) {
		return nil
	}
	return m
}

// VMState is what is known of a machine's VM, empty if it has none.
func (g *Graph) VMState(m *Machine) string {
	vm := g.vmOf[m.UID]
	switch {
	case vm == nil:
		return ""
	case !vm.DeletionTimestamp.IsZero():
		return "Deleting"
	case len(vm.Status.Addresses) > 0:
		return "Running"
	default:
		return "Creating"
	}
}

// Sighting is a place where an address stands.
type Sighting struct {
	Kind string
	types.NamespacedName
	Network string
	// Held says that it is there by a binding.
	Held bool
}

// Sightings are the machines, VMs and Clusters that have an address, beside the pools'
// own objects, each once.
func (g *Graph) Sightings(ip netip.Addr) []Sighting {
	var all []Sighting
	look := func(kind string, user capi.User, bindings []ipam.Binding) {
		places := user.Addresses()
		i := slices.IndexFunc(places, func(p capi.Place) bool { return p.IP == ip })
		if i < 0 {
			return
		}
		all = append(all, Sighting{
			Kind: kind, NamespacedName: types.NamespacedName{Namespace: user.GetNamespace(), Name: user.GetName()}, Network: places[i].Network,
			Held: slices.ContainsFunc(bindings, func(b ipam.Binding) bool { return b.Address.Addr() == ip }),
		})
	}
	for _, m := range g.Machines {
		look(capi.VSphereMachineKind.Kind, m.VSphereMachine, m.Bindings)
	}
	for _, c := range g.Clusters {
		look(capi.VSphereClusterKind.Kind, c.VSphereCluster, c.Bindings)
	}
	for _, vm := range g.VMs {
		look(capi.VSphereVMKind.Kind, vm, nil)
	}
	return all
}

// PoolsWith are the pools that have an address in their ranges, or an object of it.
func (g *Graph) PoolsWith(ip netip.Addr) []*Pool {
	var pools []*Pool
	for _, p := range g.Pools {
		all, _, ok := p.ranges()
		if (ok && all.Contains(ip)) || slices.ContainsFunc(p.Addresses, func(a Address) bool { return a.IP == ip }) {
			pools = append(pools, p)
		}
	}
	return pools
}
