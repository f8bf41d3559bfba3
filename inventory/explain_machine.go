package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// ExplainMachine tells why a VSphereMachine has its addresses, or none.
func (g *Graph) ExplainMachine(m *Machine) Story {
	s := Story{Title: title(capi.VSphereMachineKind.Kind, m)}
	if m.BindingsError != nil {
		s.warn(0, "%v", m.BindingsError)
	}
	waits := false
	for i := range m.Spec.Network.Devices {
		waits = g.explainDevice(&s, m, i) || waits
	}
	if vm := g.vmOf[m.UID]; vm != nil {
		s.field(0, "VM", "VSphereVM %s, %s%s", vm.Name, strings.ToLower(g.VMState(m)), reported(vm))
	}
	switch {
	case !m.DeletionTimestamp.IsZero():
		g.explainDeletion(&s, m)
	case waits:
		g.explainWaiting(&s, m)
	case s.Wrong:
	case len(m.Bindings) == 0:
		s.say(0, "It holds no address of a pool.")
	default:
		s.say(0, "As it should be. When the machine is deleted, its addresses stay until its VM is gone.")
	}
	return s
}

// explainDevice tells where the addresses of a device are from, and whether it waits for
// one.
func (g *Graph) explainDevice(s *Story, m *Machine, index int) (waits bool) {
	device := &m.Spec.Network.Devices[index]
	s.say(0, "device %d %q", index, device.NetworkName)
	bound := 0
	for _, b := range m.Bindings {
		if b.Device.Index == index {
			bound++
			g.explainBinding(s, m, b)
		}
	}
	switch {
	case bound > 0:
	case len(device.IPAddrs) > 0:
		s.field(1, "addresses", "%s, written by hand: nobody claims them", strings.Join(device.IPAddrs, ", "))
		g.explainByHand(s, m.Namespace, device.IPAddrs...)
	case isTrue(device.DHCP4) || isTrue(device.DHCP6):
		s.field(1, "addresses", "by DHCP")
	case len(device.AddressesFromPools) > 0:
		s.field(1, "addresses", "by CAPV itself (addressesFromPools)")
	case isTrue(device.SkipIPAllocation):
		s.field(1, "addresses", "none (skipIPAllocation)")
	default:
		s.warn(1, "it has no source of addresses, and CAPV waits for one (WaitingForStaticIPAllocation)")
		return true
	}
	return false
}

// explainByHand tells of addresses that nobody claims, and that pools may give to others.
func (g *Graph) explainByHand(s *Story, namespace string, texts ...string) {
	for _, text := range texts {
		ip := capi.ParseAddress(text)
		for _, pool := range g.PoolsWith(ip) {
			if pool.Namespace != "" && pool.Namespace != namespace {
				continue
			}
			all, reserved, known := pool.ranges()
			i := slices.IndexFunc(pool.Addresses, func(a Address) bool { return a.IP == ip })
			switch {
			case i >= 0 && g.holding(pool.Addresses[i]).Kind == claimOfOthers:
				s.say(1, "%s is of %s, where claim %s holds it", ip, pool, pool.Addresses[i].Claim)
			case i >= 0:
				h := g.holding(pool.Addresses[i])
				s.warn(1, "%s is of %s, which has given it to %s %s", ip, pool, h.Kind, h.NamespacedName)
				s.next("kubectl static-ip who %s", ip)
			case known && all.Contains(ip) && !reserved.Contains(ip):
				s.warn(1, "%s is in %s, which does not know that it is used, and may give it to a machine", ip, pool)
				s.next("take %s out of the ranges of %s", ip, pool)
			}
		}
	}
}

// explainBinding tells of one address that a device holds.
func (g *Graph) explainBinding(s *Story, m *Machine, b ipam.Binding) {
	if by := g.askedBy(m, b); by != "" {
		s.field(1, "asked by", "%s", by)
	}
	pool := g.PoolOf(m.Namespace, b.Pool)
	if pool == nil || pool.Object == nil {
		s.warn(1, "%s does not exist any more: the address stays with the machine, and no other can be given", b.Pool.In(m.Namespace))
	}
	if pool == nil {
		return
	}
	if pool.Object != nil {
		s.field(1, "pool", "%s", inUse(pool))
	}
	g.explainClaimOf(s, m, b, pool)
	address := g.explainAddressOf(s, m, b, pool)
	s.field(1, "address", "%s%s", b.Address, address)
	if given := injected(b); given != "" {
		s.field(1, "injected", "%s", given)
	}
	if !hasIP(&m.Spec.Network.Devices[b.Device.Index], b) {
		s.warn(1, "the device does not have it: somebody has changed spec.network.devices")
	}
	for _, other := range g.Sightings(b.Address.Addr()) {
		isOwn := other.Namespace == m.Namespace && (other.Name == m.Name || g.vmOf[m.UID] != nil && g.vmOf[m.UID].Name == other.Name)
		if !isOwn && capi.SameNetwork(other.Network, b.Device.NetworkName) {
			s.warn(1, "also on %s %s: two machines have one address", other.Kind, other.NamespacedName)
			s.next("kubectl static-ip who %s", b.Address.Addr())
		}
	}
}

// askedBy is who named the pool of a binding, empty if that is not known.
func (g *Graph) askedBy(m *Machine, b ipam.Binding) string {
	if g.closer == nil || g.closer.machines[m.UID] == nil {
		return ""
	}
	for _, ask := range g.closer.machines[m.UID].asks {
		if ask.Slot() == b.Slot() {
			return ask.AskedBy
		}
	}
	return ""
}

func (g *Graph) explainClaimOf(s *Story, m *Machine, b ipam.Binding, pool *Pool) {
	i := slices.IndexFunc(pool.Claims, func(c ipam.Claim) bool { return c.GetNamespace() == m.Namespace && c.GetName() == b.Claim })
	switch {
	case i < 0:
		s.warn(1, "claim %s is not there: it is made anew, and the machine keeps its address", b.Claim)
	case !pool.Claims[i].GetDeletionTimestamp().IsZero():
		s.warn(1, "claim %s is being deleted, and the machine lives: the address stays until the machine is gone", b.Claim)
	case pool.Claims[i].Address == "":
		s.warn(1, "claim %s is not bound%s", b.Claim, providerSays(pool.Claims[i]))
	default:
		s.field(1, "claim", "%s, bound", b.Claim)
	}
}

// explainAddressOf tells what is wrong with the address object of a binding, and returns
// what is right.
func (g *Graph) explainAddressOf(s *Story, m *Machine, b ipam.Binding, pool *Pool) string {
	text := ""
	for _, address := range pool.Addresses {
		if address.GetNamespace() != m.Namespace || address.Claim != b.Claim {
			continue
		}
		if address.IP != b.Address.Addr() {
			s.warn(1, "AddressLost: claim %s has %s now, and the machine goes on using %s", b.Claim, address.IP, b.Address.Addr())
			s.next("kubectl static-ip who %s", b.Address.Addr())
			continue
		}
		if !address.GetDeletionTimestamp().IsZero() {
			s.warn(1, "the address object is being deleted, because somebody deleted its claim: it is safe until the machine is gone; "+
				"replace the machine when it suits you")
		}
		text = ", object " + address.GetName() + ", protected"
		if !ipam.IsProtected(address.Object) {
			text = ", object " + address.GetName() + ", not protected yet"
		}
	}
	if holder := pool.otherHolder(m, b); holder != "" {
		s.warn(1, "AddressLost: %s is bound to claim %s", b.Address.Addr(), holder)
		s.next("kubectl static-ip who %s", b.Address.Addr())
	}
	return text
}

// otherHolder is the claim to which the address of a binding is bound, if it is another
// one than its own, or that of the other API of the same provider.
func (p *Pool) otherHolder(m *Machine, b ipam.Binding) string {
	for _, address := range p.Addresses {
		if address.IP == b.Address.Addr() && (address.Claim != b.Claim || address.GetNamespace() != m.Namespace) {
			return address.GetNamespace() + "/" + address.Claim
		}
	}
	return ""
}

// inUse is a pool with how full it is.
func inUse(pool *Pool) string {
	usage := pool.Usage()
	if !usage.Known {
		return fmt.Sprintf("%s, %d in use", pool, usage.Used)
	}
	text := fmt.Sprintf("%s, %s of %s free", pool, InWords(usage.Free), InWords(usage.Total))
	if usage.Cooling > 0 {
		text += fmt.Sprintf(", %d cooling", usage.Cooling)
	}
	return text
}

// injected is what a binding has brought beside its address.
func injected(b ipam.Binding) string {
	var texts []string
	if b.Gateway.IsValid() {
		texts = append(texts, "gateway "+b.Gateway.String())
	}
	if len(b.Nameservers) > 0 {
		texts = append(texts, "DNS "+strings.Join(b.Nameservers, " "))
	}
	if len(b.SearchDomains) > 0 {
		texts = append(texts, "search "+strings.Join(b.SearchDomains, " "))
	}
	return strings.Join(texts, ", ")
}

func hasIP(device *capi.Device, b ipam.Binding) bool {
	return slices.ContainsFunc(device.IPAddrs, func(text string) bool { return capi.ParseAddress(text) == b.Address.Addr() })
}

// reported is what the guest of a VM says of its addresses.
func reported(vm *capi.VSphereVM) string {
	if len(vm.Status.Addresses) == 0 {
		return ""
	}
	return ", its guest reports " + strings.Join(vm.Status.Addresses, ", ")
}

// explainDeletion tells what the deletion of a machine waits for.
func (g *Graph) explainDeletion(s *Story, m *Machine) {
	others := slices.DeleteFunc(slices.Clone(m.Finalizers), func(name string) bool { return name == ipam.ReleaseFinalizer })
	switch vm := g.vmOf[m.UID]; {
	case vm != nil:
		s.say(0, "It is being deleted. Its addresses stay until VSphereVM %s is gone.", vm.Name)
	case len(others) > 0:
		s.say(0, "It is being deleted, and waits for who has the finalizer %s.", strings.Join(others, ", "))
	case slices.Contains(m.Finalizers, ipam.ReleaseFinalizer):
		s.warn(0, "it is being deleted, and nothing holds it but capv-static-ip, which frees its addresses within seconds: "+
			"if it stays, no replica leads, or none reaches the API server")
		s.next("kubectl --namespace capv-static-ip-system logs --selector app.kubernetes.io/component=manager --prefix --tail=-1")
	}
}

// explainWaiting tells why a machine waits for an address, and for what.
func (g *Graph) explainWaiting(s *Story, m *Machine) {
	found := &asked{}
	if g.closer != nil && g.closer.machines[m.UID] != nil {
		found = g.closer.machines[m.UID]
	}
	refusal, isRefused := ipam.AsRefusal(found.refused)
	switch {
	case len(found.asks) == 0 && found.refused == nil:
		s.say(0, "Nobody names a pool for it: not the machine, and not its template.")
		g.explainMisses(s, m)
	case hasBegun(m, g.vmOf[m.UID]):
		s.warn(0, "TooLate: CAPV has made its VM without the address")
		s.next("replace the machine: kubectl delete machine %s -n %s", machineName(m), m.Namespace)
	case isRefused:
		s.warn(0, "%s: %s", refusal.Reason, refusal.Message)
		s.see(refusal.Reason)
		g.explainElsewhere(s, m.Namespace, found.asks)
		s.say(0, "It is tried again when that changes, and gets its address in place.")
	case found.refused != nil:
		s.warn(0, "what it asks for cannot be found out: %v", found.refused)
	default:
		g.explainDue(s, m, found)
	}
	for _, t := range g.toldOf(capi.VSphereMachineKind.Kind, m.Namespace, m.Name) {
		if !isRefused || t.Message != refusal.Message {
			s.say(0, "Its events say (%s): %s", g.often(t), t)
		}
	}
}

// explainDue tells what a machine that could be given an address still waits for.
func (g *Graph) explainDue(s *Story, m *Machine, found *asked) {
	owner, owned := machine.OwnerOf(m)
	cluster := g.cluster(m.Namespace, m.Labels[clusterv1.ClusterNameLabel])
	s.say(0, "It asks by %s, and there is an address for it.", found.asks[0].AskedBy)
	switch {
	case cluster != nil && cluster.IsPaused():
		s.say(0, "Cluster %s is paused: it gets its address when that is resumed.", m.Labels[clusterv1.ClusterNameLabel])
	case annotations.HasPaused(m):
		s.say(0, "It is paused itself (annotation %s), and gets its address when that is taken off.", clusterv1.PausedAnnotation)
	case !owned:
		s.say(0, "No Machine owns it: Cluster API has not made that yet, or somebody made the VSphereMachine by hand.")
	case !slices.Contains(m.Finalizers, infrav1.MachineFinalizer):
		s.say(0, "CAPV has not looked at it yet, which it does first: is CAPV running?")
	default:
		s.say(0, "The leader of capv-static-ip gives it its address within seconds (Machine %s). If it does not, is it running?", owner.Name)
		s.next("kubectl -n capv-static-ip-system get pods")
	}
}

// hasBegun tells whether CAPV has made the VM of a machine, or is about to.
func hasBegun(m *Machine, vm *capi.VSphereVM) bool {
	return m.Spec.ProviderID != "" || vm != nil && vm.IsBegun()
}

// machineName is the Machine of a VSphereMachine, which has its name as a rule.
func machineName(m *Machine) string {
	owner, _ := machine.OwnerOf(m)
	return cmp.Or(owner.Name, m.Name)
}

// explainElsewhere tells of pools that have a name which was asked for, and are elsewhere
// or of another kind.
func (g *Graph) explainElsewhere(s *Story, namespace string, asks []ipam.Ask) {
	for _, ask := range asks {
		for _, choice := range ask.Choices {
			if found := g.elsewhere(namespace, choice.Pool); found != "" && g.meant(namespace, choice) == nil {
				s.say(1, "There is %s: a machine has addresses of its own namespace's pools, by their kind, or of a GlobalInClusterIPPool.", found)
			}
		}
	}
}

// meant is the first pool of a namespace that one of these choices means, nil if there is
// none.
func (g *Graph) meant(namespace string, choices ...ipam.Choice) *Pool {
	for _, choice := range choices {
		for _, pool := range g.Pools {
			if pool.isMeant(namespace, choice) {
				return pool
			}
		}
	}
	return nil
}

// elsewhere names the pools of a name that an object of the namespace does not mean by it:
// those of its namespace, or else of others.
func (g *Graph) elsewhere(namespace string, pool ipam.PoolReference) string {
	var here, elsewhere []string
	for _, p := range g.Pools {
		switch {
		case p.Object == nil || p.Name != pool.Name:
		case p.Namespace != namespace:
			elsewhere = append(elsewhere, p.String())
		case pool.Kind != "" && p.Kind != pool.Kind:
			here = append(here, p.String())
		}
	}
	if len(here) > 0 {
		elsewhere = here
	}
	return strings.Join(elsewhere, " and ")
}

// providerSays is a provider's word on a claim that is not bound.
func providerSays(c ipam.Claim) string {
	if text := cmp.Or(c.Failure, c.Waits); text != "" {
		return ": " + text
	}
	return ""
}

func isTrue(b *bool) bool { return b != nil && *b }
