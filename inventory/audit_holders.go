package inventory

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// sourceTime is how long a machine may be without a source of addresses: the leader gives
// it one within seconds.
const sourceTime = time.Minute

// use is one object that has an address.
type use struct {
	Involved
	network string
	// bound says that it has it from us, and byGuest that only its guest says so.
	bound, byGuest bool
	// lone says that it is a VM whose machine does not exist.
	lone bool
	// machine is set for a VSphereMachine.
	machine *Machine
}

// addressTwice finds addresses that two machines or VMs have on one network.
func (a *audit) addressTwice() []*Finding {
	uses := a.uses()
	var findings []*Finding
	for _, ip := range slices.SortedFunc(maps.Keys(uses), netip.Addr.Compare) {
		if shared, severity := sharedOf(uses[ip]); len(shared) > 0 {
			findings = append(findings, a.twice(ip, shared, severity))
		}
	}
	return append(findings, a.endpointsOnMachines()...)
}

// uses are who has each address.
func (a *audit) uses() map[netip.Addr][]use {
	uses := map[netip.Addr][]use{}
	for _, m := range a.Machines {
		for _, has := range m.Addresses() {
			uses[has.IP] = append(uses[has.IP], use{
				Involved: involved(capi.VSphereMachineKind.Kind, m), network: has.Network, bound: m.holds(has.IP), machine: m,
			})
		}
	}
	for _, vm := range a.VMs {
		m := a.machineOfVM(vm)
		onDevices := capi.VSphereVM{Spec: vm.Spec}
		for _, has := range vm.Addresses() {
			if m != nil && m.has(has.IP) || has.IP.IsLinkLocalUnicast() || has.IP.IsLoopback() {
				continue
			}
			isOnDevice := slices.ContainsFunc(onDevices.Addresses(), func(p capi.Place) bool { return p.IP == has.IP })
			uses[has.IP] = append(uses[has.IP], use{
				Involved: involved(capi.VSphereVMKind.Kind, vm), network: has.Network, byGuest: !isOnDevice, lone: m == nil,
			})
		}
	}
	return uses
}

func (m *Machine) has(ip netip.Addr) bool {
	return slices.ContainsFunc(m.Addresses(), func(p capi.Place) bool { return p.IP == ip })
}

func (m *Machine) holds(ip netip.Addr) bool {
	return slices.ContainsFunc(m.Bindings, func(b ipam.Binding) bool { return b.Address.Addr() == ip })
}

// sharedOf are those who have an address together with another. What people wrote on two
// machines by hand is theirs, and what a guest says may have its reasons.
func sharedOf(uses []use) (shared []use, severity Severity) {
	severity = Risky
	in := make([]bool, len(uses))
	for i, one := range uses {
		for j, other := range uses[:i] {
			how, both := one.with(other)
			if !both {
				continue
			}
			if how == Failing {
				severity = Failing
			}
			in[i], in[j] = true, true
		}
	}
	for i := range uses {
		if in[i] {
			shared = append(shared, uses[i])
		}
	}
	return shared, severity
}

// with tells whether two have one address on one network so that it matters, and how much.
func (u use) with(other use) (severity Severity, both bool) {
	if u.Involved == other.Involved || !capi.SameNetwork(u.network, other.network) {
		return "", false
	}
	isBound, areMachines := u.bound || other.bound, u.machine != nil && other.machine != nil
	isLoneVM := (u.lone || other.lone) && !u.byGuest && !other.byGuest
	if isBound && (areMachines || isLoneVM) {
		return Failing, true
	}
	return Risky, isBound || areMachines
}

func (a *audit) twice(ip netip.Addr, shared []use, severity Severity) *Finding {
	f := &Finding{Check: AddressTwice, Severity: severity, Object: ip.String(), NamespacedName: types.NamespacedName{Name: ip.String()}}
	f.on(ip)
	var names []string
	var other, bound *use
	for i := range shared {
		f.Involved = append(f.Involved, shared[i].Involved)
		name := shared[i].String()
		if shared[i].byGuest {
			name += " (its guest says so)"
		}
		names = append(names, name)
		if shared[i].bound {
			bound = &shared[i]
		} else {
			other = &shared[i]
		}
	}
	f.because("used by %s", strings.Join(names, " and "))
	f.Beside = besideOf(shared)
	switch {
	case bound == nil:
		return f.remedy("give one of them another address")
	case other == nil:
		return f.remedy("delete one of their Machines, so that its replacement gets an address of its own")
	}
	pool := "its pool"
	for _, b := range bound.machine.Bindings {
		if b.Address.Addr() == ip {
			pool = b.Pool.Kind + " " + b.Pool.Name
		}
	}
	return f.remedy("give %s another address, or take %s out of %s", other.Name, ip, pool)
}

// endpointsOnMachines finds addresses that we gave to a machine, and that are the endpoint
// which we gave to a VSphereCluster.
func (a *audit) endpointsOnMachines() []*Finding {
	var findings []*Finding
	for _, c := range a.Clusters {
		ip, ours := c.endpoint()
		if !ours {
			continue
		}
		for _, m := range a.Machines {
			if m.Namespace == c.Namespace && m.has(ip) && m.holds(ip) {
				machine, cluster := involved(capi.VSphereMachineKind.Kind, m), involved(capi.VSphereClusterKind.Kind, c)
				f := about(AddressTwice, Failing, machine).on(ip).because("has %s, the endpoint of %s", ip, cluster).
					remedy("delete its Machine, so that the replacement gets an address of its own")
				f.Involved = append(f.Involved, cluster)
				findings = append(findings, f)
			}
		}
	}
	return findings
}

// endpoint is the address that a VSphereCluster has as its endpoint, false if it is not of us.
func (c *Cluster) endpoint() (netip.Addr, bool) {
	for _, has := range c.Addresses() {
		if len(c.Bindings) == 1 && c.Bindings[0].Address.Addr() == has.IP {
			return has.IP, true
		}
	}
	return netip.Addr{}, false
}

// notBound finds machines, VMs and endpoints that use an address which is not kept for them.
func (a *audit) notBound() []*Finding {
	var findings []*Finding
	for _, m := range a.Machines {
		// It lives on elsewhere.
		if _, moves := m.Annotations[clusterctlv1.DeleteForMoveAnnotation]; !moves {
			findings = append(findings, a.machineNotBound(m)...)
		}
	}
	for _, vm := range a.VMs {
		if a.machines[capi.OwnerMachine(vm).UID] == nil {
			findings = append(findings, a.vmNotBound(vm)...)
		}
	}
	for _, c := range a.Clusters {
		ip, ours := c.endpoint()
		if ours && !a.keepsEndpoint(c, ip) {
			findings = append(findings, about(NotBound, Failing, involved(capi.VSphereClusterKind.Kind, c)).on(ip).
				because("its endpoint %s is kept for nobody: the pool may give it to a machine", ip).
				remedy("see the events of the VSphereCluster; keep the pool from handing out %s", ip))
		}
	}
	return findings
}

func (a *audit) keepsEndpoint(c *Cluster, ip netip.Addr) bool {
	pool := c.Bindings[0].Pool
	return slices.ContainsFunc(a.addresses[place{c.Namespace, pool, ip}], func(address *Address) bool {
		return ipam.HolderOf(address).Kind == ipam.OfCluster && ipam.IsProtected(address)
	})
}

func (a *audit) machineNotBound(m *Machine) []*Finding {
	object := involved(capi.VSphereMachineKind.Kind, m)
	if m.BindingsError != nil {
		return []*Finding{about(NotBound, Failing, object).because("%v", m.BindingsError).
			remedy("take the annotation off: it is written again from its claims and devices")}
	}
	var findings []*Finding
	for _, b := range m.Bindings {
		ip := b.Address.Addr()
		why := a.whyNotKept(m.Namespace, m.Name, b.Pool, ip)
		if address := a.objectOf(m.Namespace, b.Pool, ip); address != nil && address.IsCooling() && m.has(ip) {
			why = "cools down, as if no machine had it"
		}
		if why != "" {
			findings = append(findings, about(NotBound, Failing, object).on(ip).because("uses %s of %s %s, which %s", ip, b.Pool.Kind, b.Pool.Name, why).
				remedy("delete its Machine, so that the replacement gets an address that is its own"))
		}
	}
	return findings
}

// vmNotBound finds what a VM uses whose machine does not exist. Only its addresses are left
// to go by, so those that are in no pool are somebody else's.
func (a *audit) vmNotBound(vm *capi.VSphereVM) []*Finding {
	var findings []*Finding
	for _, has := range vm.Addresses() {
		why := ""
		for _, pool := range a.poolsSeenFrom(vm.Namespace) {
			ranges, known := a.ranges[pool]
			if !known || !ranges.all.Contains(has.IP) || a.isReserved(vm.Namespace, pool, has.IP) {
				continue
			}
			if why = a.whyNotKept(vm.Namespace, machineNameOf(vm), pool.PoolReference, has.IP); why == "" || a.isOfAnEndpoint(vm.Namespace, pool, has.IP) {
				why = ""
				break
			}
			why = fmt.Sprintf("uses %s of %s, which %s", has.IP, pool, why)
		}
		if why != "" {
			findings = append(findings, about(NotBound, Failing, involved(capi.VSphereVMKind.Kind, vm)).on(has.IP).because("has no VSphereMachine, and %s", why).
				remedy("see that the virtual machine is gone, or keep the pool from handing out %s", has.IP))
		}
	}
	return findings
}

// isReserved tells whether a pool gives an address to nobody, and nobody has it.
func (a *audit) isReserved(namespace string, pool *Pool, ip netip.Addr) bool {
	return a.ranges[pool].reserved.Contains(ip) && a.objectOf(namespace, pool.PoolReference, ip) == nil
}

// isOfAnEndpoint tells whether an address is kept for an endpoint, which the VM of a control
// plane reports as its own.
func (a *audit) isOfAnEndpoint(namespace string, pool *Pool, ip netip.Addr) bool {
	address := a.objectOf(namespace, pool.PoolReference, ip)
	return address != nil && ipam.HolderOf(address).Kind == ipam.OfCluster
}

// whyNotKept says why an address is not kept for a machine, empty if it is.
func (a *audit) whyNotKept(namespace, machine string, pool ipam.PoolReference, ip netip.Addr) string {
	address := a.objectOf(namespace, pool, ip)
	if address == nil {
		return "the pool knows nothing of"
	}
	claim := a.claimOf(address)
	switch {
	case claim == nil && ipam.IsProtected(address) && ipam.MachineOf(address) == machine:
		return ""
	case claim == nil:
		return "has neither its claim nor our protection"
	case ipam.IsSetAside(claim) || ipam.MachineOf(claim) == machine:
		return ""
	case ipam.MachineOf(claim) != "":
		return fmt.Sprintf("is that of machine %q, by claim %s", ipam.MachineOf(claim), claim.GetName())
	default:
		return fmt.Sprintf("answers claim %s of somebody else", claim.GetName())
	}
}

// noSource finds machines for which CAPV waits.
func (a *audit) noSource() []*Finding {
	var findings []*Finding
	for _, m := range a.Machines {
		if m.Spec.ProviderID != "" || !m.DeletionTimestamp.IsZero() || a.At.Sub(m.CreationTimestamp.Time) < sourceTime {
			continue
		}
		for i := range m.Spec.Network.Devices {
			if m.waits(i) {
				device := &m.Spec.Network.Devices[i]
				findings = append(findings, about(NoSource, Risky, involved(capi.VSphereMachineKind.Kind, m)).
					because("device %d %q has no source of addresses, and CAPV waits for one", i, device.NetworkName).
					remedy("kubectl static-ip explain vspheremachine/%s -n %s says why", m.Name, m.Namespace))
				break
			}
		}
	}
	return findings
}

// guestDisagrees finds machines whose guest reports addresses, and not the one that is bound.
func (a *audit) guestDisagrees() []*Finding {
	var findings []*Finding
	for _, m := range a.Machines {
		vm := a.vmOf[m.UID]
		if vm == nil || m.UID == "" {
			continue
		}
		reported := (&capi.VSphereVM{Status: vm.Status}).Addresses()
		for _, b := range m.Bindings {
			ip := b.Address.Addr()
			var others []string
			for _, has := range reported {
				if has.IP.Is4() == ip.Is4() && !has.IP.IsLinkLocalUnicast() && !has.IP.IsLoopback() {
					others = append(others, has.IP.String())
				}
			}
			if len(others) == 0 || slices.Contains(others, ip.String()) {
				continue
			}
			f := about(GuestDisagrees, Risky, involved(capi.VSphereMachineKind.Kind, m)).on(ip).
				because("has %s, and the guest of its VM reports %s", ip, strings.Join(others, ", ")).
				remedy("look into the VM: what set up its network did not take what CAPV gave it")
			f.Involved = append(f.Involved, involved(capi.VSphereVMKind.Kind, vm))
			findings = append(findings, f)
		}
	}
	return findings
}

// byHandInPool finds addresses that people wrote on machines and that a pool would hand out.
func (a *audit) byHandInPool() []*Finding {
	var findings []*Finding
	for _, m := range a.Machines {
		for _, has := range m.Addresses() {
			if m.holds(has.IP) {
				continue
			}
			for _, pool := range a.poolsSeenFrom(m.Namespace) {
				if a.wouldGive(pool, has) {
					findings = append(findings, about(ByHandInPool, Risky, involved(capi.VSphereMachineKind.Kind, m)).on(has.IP).in(pool).
						because("has %s, written by hand, which %s may hand out", has.IP, pool).
						remedy("take %s out of the pool", has.IP))
					break
				}
			}
		}
	}
	return findings
}

// wouldGive tells whether a pool has an address in its ranges on this network, and does not
// know that somebody has it.
func (a *audit) wouldGive(pool *Pool, has capi.Place) bool {
	ranges, known := a.ranges[pool]
	if !known || !ranges.all.Contains(has.IP) || ranges.reserved.Contains(has.IP) {
		return false
	}
	return pool.isOn(has.Network) && !slices.ContainsFunc(pool.Addresses, func(address Address) bool { return address.IP == has.IP })
}

// stated is what a pool says in an annotation that it is for, nil if it says nothing.
func (p *Pool) stated(annotation string) []string {
	if p.Object == nil {
		return nil
	}
	text, says := p.Object.GetAnnotations()[annotation]
	if !says {
		return nil
	}
	return append([]string{}, ipam.SplitList(text)...)
}
