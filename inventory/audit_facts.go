package inventory

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// audit is a Graph with what the checks look up in it.
type audit struct {
	*Graph
	limits Limits

	machines map[types.UID]*Machine
	named    map[types.NamespacedName]*Machine
	claims   map[types.UID]*ipam.Claim
	// addresses are the objects of an address of a pool, which metal3 may make two of.
	addresses map[place][]*Address
	// onVM are the addresses that VMs have or report.
	onVM      map[spot]bool
	endpoints map[spot]bool
	paused    map[types.NamespacedName]bool
	ranges    map[*Pool]poolRanges
	details   map[*Pool]ipam.Details
	poolsIn   map[string][]*Pool
}

// place is where an address is at home.
type place struct {
	namespace string
	pool      ipam.PoolReference
	ip        netip.Addr
}

// spot is where an address is used.
type spot struct {
	namespace string
	ip        netip.Addr
}

// poolRanges are the addresses of a pool, and those that it gives nobody.
type poolRanges struct {
	all, reserved *netipx.IPSet
}

func newAudit(g *Graph, limits Limits) *audit {
	a := &audit{
		Graph: g, limits: limits,
		machines: map[types.UID]*Machine{}, named: map[types.NamespacedName]*Machine{}, claims: map[types.UID]*ipam.Claim{},
		addresses: map[place][]*Address{}, onVM: map[spot]bool{}, endpoints: map[spot]bool{}, paused: map[types.NamespacedName]bool{},
		ranges: map[*Pool]poolRanges{}, details: map[*Pool]ipam.Details{}, poolsIn: map[string][]*Pool{},
	}
	for _, m := range g.Machines {
		a.machines[m.UID], a.named[client.ObjectKeyFromObject(m)] = m, m
	}
	for _, vm := range g.VMs {
		for _, has := range vm.Addresses() {
			a.onVM[spot{vm.Namespace, has.IP}] = true
		}
	}
	for _, cluster := range g.CAPIClusters {
		a.paused[client.ObjectKeyFromObject(cluster)] = cluster.IsPaused()
		for _, has := range cluster.Addresses() {
			if cluster.DeletionTimestamp.IsZero() {
				a.endpoints[spot{cluster.Namespace, has.IP}] = true
			}
		}
	}
	for _, p := range g.Pools {
		a.addPool(p)
	}
	return a
}

func (a *audit) addPool(p *Pool) {
	a.poolsIn[p.Namespace] = append(a.poolsIn[p.Namespace], p)
	if all, reserved, ok := p.ranges(); ok {
		a.ranges[p] = poolRanges{all, reserved}
	}
	if p.Object != nil {
		a.details[p] = ipam.DetailsOf(p.Provider, p.Object)
	}
	for i := range p.Claims {
		a.claims[p.Claims[i].GetUID()] = &p.Claims[i]
	}
	for i := range p.Addresses {
		address := &p.Addresses[i]
		where := place{address.GetNamespace(), address.Pool, address.IP}
		a.addresses[where] = append(a.addresses[where], address)
	}
}

// poolsSeenFrom are the pools that objects of a namespace can have addresses of.
func (a *audit) poolsSeenFrom(namespace string) []*Pool {
	return slices.Concat(a.poolsIn[namespace], a.poolsIn[""])
}

// claimOf is the claim that an address answers, nil if it is gone.
func (a *audit) claimOf(address *Address) *ipam.Claim {
	for _, owner := range address.GetOwnerReferences() {
		if claim := a.claims[owner.UID]; claim != nil {
			return claim
		}
	}
	return nil
}

// objectOf is the object of an address of a pool, nil if there is none. One that is being
// deleted does not keep the address, if there is another.
func (a *audit) objectOf(namespace string, pool ipam.PoolReference, ip netip.Addr) *Address {
	var found *Address
	for _, address := range a.addresses[place{namespace, pool, ip}] {
		if found == nil || address.GetDeletionTimestamp().IsZero() {
			found = address
		}
	}
	return found
}

// machineOfVM is the machine that a VM is of, nil if there is none. A backup brings VMs back
// without owners; CAPV gives a VM the name of its machine.
func (a *audit) machineOfVM(vm *capi.VSphereVM) *Machine {
	if m := a.machines[capi.OwnerMachine(vm).UID]; m != nil {
		return m
	}
	return a.named[types.NamespacedName{Namespace: vm.Namespace, Name: machineNameOf(vm)}]
}

func machineNameOf(vm *capi.VSphereVM) string {
	if owner := capi.OwnerMachine(vm); owner.Name != "" {
		return owner.Name
	}
	return vm.Name
}

// isPaused tells whether the Cluster of an object is paused: then the manager leaves it.
func (a *audit) isPaused(obj client.Object) bool {
	return a.paused[types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetLabels()[clusterv1.ClusterNameLabel]}]
}

// isEndpoint tells whether an address is the endpoint of the VSphereCluster of this name, or
// of a Cluster of the namespace that is not being deleted.
func (a *audit) isEndpoint(key types.NamespacedName, ip netip.Addr) bool {
	return a.endpoints[spot{key.Namespace, ip}] || slices.ContainsFunc(a.Clusters, func(c *Cluster) bool {
		return client.ObjectKeyFromObject(c) == key && slices.ContainsFunc(c.Addresses(), func(has capi.Place) bool { return has.IP == ip })
	})
}

// isForEndpoint tells whether a claim has the address of an endpoint.
func (a *audit) isForEndpoint(claim *ipam.Claim) bool {
	holder := ipam.HolderOf(claim)
	if holder.Kind != ipam.OfCluster {
		return false
	}
	key := types.NamespacedName{Namespace: claim.GetNamespace(), Name: holder.Name}
	return slices.ContainsFunc(a.addressesOf(claim), func(address *Address) bool { return a.isEndpoint(key, address.IP) })
}

// addressesOf are the addresses that answer a claim.
func (a *audit) addressesOf(claim *ipam.Claim) []*Address {
	pool := a.PoolOf(claim.GetNamespace(), claim.Pool)
	if pool == nil {
		return nil
	}
	var found []*Address
	for i := range pool.Addresses {
		address := &pool.Addresses[i]
		// metal3 leaves an address as it is that it binds to a claim which was made anew.
		if address.GetNamespace() == claim.GetNamespace() && (ipam.Answers(address, claim.GetUID()) || claim.Address == address.GetName()) {
			found = append(found, address)
		}
	}
	return found
}

// involved is an object as findings name it.
func involved(kind string, obj client.Object) Involved {
	return Involved{Kind: kind, NamespacedName: client.ObjectKeyFromObject(obj)}
}

// eachClaim and eachAddress go through all of them.
func (a *audit) eachClaim(do func(*Pool, *ipam.Claim)) {
	for _, pool := range a.Pools {
		for i := range pool.Claims {
			do(pool, &pool.Claims[i])
		}
	}
}

func (a *audit) eachAddress(do func(*Pool, *Address)) {
	for _, pool := range a.Pools {
		for i := range pool.Addresses {
			do(pool, &pool.Addresses[i])
		}
	}
}

// aboutClaim and aboutAddress are findings about one, whichever API it is of.
func (a *audit) aboutClaim(check CheckID, severity Severity, pool *Pool, claim *ipam.Claim) *Finding {
	f := about(check, severity, involved("claim", claim)).in(pool)
	for _, address := range a.addressesOf(claim) {
		f.on(address.IP)
	}
	return f
}

func aboutAddress(check CheckID, severity Severity, pool *Pool, address *Address) *Finding {
	return about(check, severity, involved("address", address)).on(address.IP).in(pool)
}
