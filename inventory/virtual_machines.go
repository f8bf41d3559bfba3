package inventory

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// virtualMachineKind is how findings name what a vCenter has.
const virtualMachineKind = "VirtualMachine"

// providerIDPrefix is before the BIOS UUID in a providerID.
const providerIDPrefix = "vsphere://"

// VCenter is what a vCenter has, as far as it was told.
type VCenter struct {
	Server          string
	VirtualMachines []VirtualMachine
	// Silent are the names of virtual machines that run and whose guests report no address, and
	// Hidden of those that may not be read.
	Silent, Hidden []string
	// Err says why it could not be read.
	Err error
}

// VirtualMachine is one that a vCenter has, whoever made it.
type VirtualMachine struct {
	// UUID is that of its BIOS, as in a providerID.
	Name, UUID string
	// Places are the addresses that its guest reports.
	Places []capi.Place
}

// readVCenters notes what the vCenters have, if they are to be asked. That is before anything
// else is read: an address is in its pool before a virtual machine has it.
func (s Source) readVCenters(ctx context.Context, g *Graph) {
	if s.VCenters != nil {
		g.withVCenters, g.VCenters = true, s.VCenters(ctx)
	}
}

// Makes tells whether the check can find anything in this Graph: what vCenters have is read only
// for who asks for it.
func (g *Graph) Makes(id CheckID) bool { return id != GuestInPool || g.withVCenters }

// unlooked is what guestsInPools does not see, nil if that is nothing.
func (g *Graph) unlooked() *LeftOut {
	left := &LeftOut{Check: GuestInPool, Partly: true}
	say := func(format string, args ...any) { left.Unseen = append(left.Unseen, fmt.Sprintf(format, args...)) }
	for _, v := range g.VCenters {
		if v.Err != nil {
			say("the virtual machines of %s: %v", v.Server, v.Err)
		}
		if len(v.Silent) > 0 {
			say("the addresses of virtual machines of %s that run, and whose guests report none: %s", v.Server, namesOf(v.Silent))
		}
		if len(v.Hidden) > 0 {
			say("virtual machines of %s that may not be read there: %s", v.Server, namesOf(v.Hidden))
		}
	}
	for _, pool := range g.Pools {
		if pool.Namespace == "" && g.asked != "" {
			say("%s, whose addresses are in all namespaces: say -A", pool)
		}
	}
	if len(left.Unseen) == 0 {
		return nil
	}
	return left
}

// guests is what guestsInPools looks up.
type guests struct {
	*audit
	// known are the addresses that the management cluster knows a virtual machine by its UUID to
	// have: what is wrong with them other checks find.
	known map[string][]netip.Addr
	// vms are the VSphereVMs of a machine.
	vms map[types.NamespacedName][]*capi.VSphereVM
	// objects are those of an address of a pool.
	objects map[*Pool]map[netip.Addr][]*Address
}

func (a *audit) newGuests() *guests {
	g := &guests{
		audit: a, known: map[string][]netip.Addr{}, vms: map[types.NamespacedName][]*capi.VSphereVM{}, objects: map[*Pool]map[netip.Addr][]*Address{},
	}
	know := func(uuid string, user capi.User) {
		for _, has := range user.Addresses() {
			g.known[strings.ToLower(uuid)] = append(g.known[strings.ToLower(uuid)], has.IP)
		}
	}
	for _, m := range a.Machines {
		know(uuidOf(m), m.VSphereMachine)
	}
	for _, vm := range a.VMs {
		know(vm.Spec.BiosUUID, vm)
		of := types.NamespacedName{Namespace: vm.Namespace, Name: machineNameOf(vm)}
		g.vms[of] = append(g.vms[of], vm)
	}
	delete(g.known, "")
	a.eachAddress(func(pool *Pool, address *Address) {
		if g.objects[pool] == nil {
			g.objects[pool] = map[netip.Addr][]*Address{}
		}
		g.objects[pool][address.IP] = append(g.objects[pool][address.IP], address)
	})
	return g
}

// uuidOf is the UUID of a machine's virtual machine, empty if it is not known.
func uuidOf(m *Machine) string { return strings.TrimPrefix(m.Spec.ProviderID, providerIDPrefix) }

// guestsInPools finds virtual machines of vCenters with an address of a pool that is not kept for
// them.
func (a *audit) guestsInPools() []*Finding {
	g := a.newGuests()
	var findings []*Finding
	for _, v := range a.VCenters {
		for i := range v.VirtualMachines {
			vm := &v.VirtualMachines[i]
			for _, has := range vm.Places {
				if !slices.Contains(g.known[strings.ToLower(vm.UUID)], has.IP) {
					findings = append(findings, g.findingsOf(vm, has)...)
				}
			}
		}
	}
	return findings
}

// findingsOf are those of one address, in all pools that have it. Where one of them keeps it for
// the virtual machine, it has it by right.
func (g *guests) findingsOf(vm *VirtualMachine, has capi.Place) []*Finding {
	var findings []*Finding
	for _, pool := range g.Pools {
		ranges, known := g.ranges[pool]
		if !known || !ranges.all.Contains(has.IP) || !pool.isOn(has.Network) || pool.Namespace == "" && g.asked != "" {
			continue
		}
		objects := g.objects[pool][has.IP]
		why, isItsOwn := g.whyNotIts(vm, objects)
		if isItsOwn || g.endpoints[spot{pool.Namespace, has.IP}] {
			return nil
		}
		f := about(GuestInPool, Failing, Involved{Kind: virtualMachineKind, NamespacedName: types.NamespacedName{Name: vm.Name}}).on(has.IP).in(pool)
		switch {
		case why != "":
			findings = append(findings, f.because("answers with %s of %s, which %s", has.IP, pool, why).
				remedy("remove the virtual machine in vCenter, or give its guest another address"))
		case len(objects) == 0 && !ranges.reserved.Contains(has.IP):
			findings = append(findings, f.because("answers with %s of %s, which nobody holds: the pool may hand it out", has.IP, pool).
				remedy("%s keeps it out of the pool until you decide; or remove the virtual machine in vCenter", reserveCommand(pool, has.IP)))
		}
	}
	return findings
}

// reserveCommand is what to type to keep an address of a pool.
func reserveCommand(pool *Pool, ip netip.Addr) string {
	text := fmt.Sprintf("kubectl static-ip reserve %s/%s %s --yes", pool.KindName(), pool.Name, ip)
	if pool.Namespace != "" {
		text += " -n " + pool.Namespace
	}
	return text
}

// whyNotIts says why the objects of an address do not keep it for a virtual machine, and whether
// one of them does. What somebody else has claimed, and an endpoint, is for whoever answers there:
// which virtual machine that is nobody here knows.
func (g *guests) whyNotIts(vm *VirtualMachine, objects []*Address) (why string, isItsOwn bool) {
	for _, address := range objects {
		holder := ipam.HolderOf(address.Object)
		if claim := g.claimOf(address); holder.Name == "" && claim != nil {
			holder = ipam.HolderOf(claim.Object)
		}
		machine := types.NamespacedName{Namespace: address.GetNamespace(), Name: holder.Name}
		switch {
		case address.IsCooling():
			why = "cools down, as if nobody had it"
		case !address.GetDeletionTimestamp().IsZero() && !ipam.IsProtected(address.Object):
			why = "is being given back, as if nobody had it"
		case holder.Name == "" || holder.Kind == ipam.OfCluster || g.isOf(vm, machine):
			return "", true
		default:
			why = fmt.Sprintf("is kept for %s %s", capi.VSphereMachineKind.Kind, machine)
		}
	}
	return why, false
}

// isOf tells whether a virtual machine is that of a machine. By its name it is only where nobody
// knows the UUID yet.
func (g *guests) isOf(vm *VirtualMachine, machine types.NamespacedName) bool {
	names, uuids := []string{machine.Name}, []string{}
	if m := g.named[machine]; m != nil {
		uuids = append(uuids, uuidOf(m))
	}
	for _, v := range g.vms[machine] {
		names, uuids = append(names, v.Name), append(uuids, v.Spec.BiosUUID)
	}
	uuids = slices.DeleteFunc(uuids, func(uuid string) bool { return uuid == "" })
	if len(uuids) == 0 || vm.UUID == "" {
		return slices.Contains(names, vm.Name)
	}
	return slices.ContainsFunc(uuids, func(uuid string) bool { return strings.EqualFold(uuid, vm.UUID) })
}

// isOn tells whether a pool is for addresses on a network, as far as it says so.
func (p *Pool) isOn(network string) bool {
	networks := p.stated(ipam.NetworksAnnotation)
	return networks == nil || slices.ContainsFunc(networks, func(stated string) bool { return capi.SameNetwork(stated, network) })
}
