package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/retry"
	"capv-static-ip.dev/machine"
)

// Story is what is known of one thing, for people.
type Story struct {
	Title string
	Lines []string
	// Next is what to type next, empty if there is nothing to do.
	Next string
	// Wrong says that something is not as it should be.
	Wrong bool
}

func (s *Story) say(format string, args ...any) {
	s.Lines = append(s.Lines, fmt.Sprintf(format, args...))
}

// ExplainMachine tells why a VSphereMachine has its addresses, or none.
func (g *Graph) ExplainMachine(m *Machine) Story {
	s := Story{Title: fmt.Sprintf("VSphereMachine %s/%s%s", m.Namespace, m.Name, ofCluster(m.Labels[clusterv1.ClusterNameLabel]))}
	if m.BindingsError != nil {
		s.Wrong = true
		s.say("! %v", m.BindingsError)
	}
	for i := range m.Spec.Network.Devices {
		g.explainDevice(&s, m, i)
	}
	switch {
	case s.Wrong:
	case len(m.Bindings) == 0:
		s.say("It holds no address of a pool.")
	case !m.DeletionTimestamp.IsZero():
		s.say("It is being deleted. Its addresses stay until its VM is gone.")
	default:
		s.say("As it should be. When the machine is deleted, its addresses stay until its VM is gone.")
	}
	return s
}

func (g *Graph) explainDevice(s *Story, m *Machine, index int) {
	device := &m.Spec.Network.Devices[index]
	s.say("device %d %q", index, device.NetworkName)
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
		s.say("  addresses  %s, written by hand: nobody claims them", strings.Join(device.IPAddrs, ", "))
	case isTrue(device.DHCP4) || isTrue(device.DHCP6):
		s.say("  addresses  by DHCP")
	case len(device.AddressesFromPools) > 0:
		s.say("  addresses  by CAPV itself (addressesFromPools)")
	case isTrue(device.SkipIPAllocation):
		s.say("  addresses  none (skipIPAllocation)")
	default:
		s.Wrong = true
		s.say("  ! it has no source of addresses, and CAPV waits for one")
		g.explainWaiting(s, m, index)
	}
}

// explainBinding tells of one address that a device holds.
func (g *Graph) explainBinding(s *Story, m *Machine, b ipam.Binding) {
	s.say("  address    %s", b.Address)
	pool := g.PoolOf(m.Namespace, b.Pool)
	if pool == nil {
		s.Wrong = true
		s.say("    ! pool   %s is not there", b.Pool)
		return
	}
	usage := pool.Usage()
	if usage.Known {
		s.say("    pool     %s, %s of %s free", pool, InWords(usage.Free), InWords(usage.Total))
	} else {
		s.say("    pool     %s", pool)
	}
	claim := slices.IndexFunc(pool.Claims, func(c ipam.Claim) bool { return c.GetNamespace() == m.Namespace && c.GetName() == b.Claim })
	switch {
	case claim < 0:
		s.Wrong = true
		s.say("    ! claim  %s is not there: it is made anew", b.Claim)
	case pool.Claims[claim].Address == "":
		s.Wrong = true
		s.say("    ! claim  %s is not bound", b.Claim)
	default:
		s.say("    claim    %s, bound", b.Claim)
	}
	for _, address := range pool.Addresses {
		if address.GetNamespace() != m.Namespace || address.Claim != b.Claim {
			continue
		}
		if address.IP != b.Address.Addr() {
			s.Wrong = true
			s.say("    ! the claim has %s, and the machine %s", address.IP, b.Address.Addr())
		}
		protected := "not protected yet"
		if ipam.IsProtected(address.Object) {
			protected = "protected: it stays taken whatever becomes of the claim"
		}
		s.say("    object   %s, %s", address.GetName(), protected)
	}
	if b.Gateway.IsValid() {
		s.say("    gateway  %s", b.Gateway)
	}
	if vm := g.VMState(m); vm != "" {
		s.say("    VM       %s", vm)
	}
}

// explainWaiting tells what a device that waits could have been asked for, and nearly was.
func (g *Graph) explainWaiting(s *Story, m *Machine, index int) {
	template := m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	for _, asker := range g.askersOf(m, template) {
		for _, problem := range asker.misses(m, index) {
			s.say("  %s", problem)
		}
	}
	s.Next = fmt.Sprintf("label the VSphereMachineTemplate, or metadata that reaches its machines, with %s=POOL, then delete the Machine: a new one is made", machine.PoolNameLabel)
}

// asker is an object on which somebody may have asked for a pool.
type asker struct {
	name string
	// reaches says that machines get what stands there.
	reaches bool
	labels  map[string]string
	notes   map[string]string
}

// askersOf are the objects around a machine: those that count, and those on which people
// write in vain.
func (g *Graph) askersOf(m *Machine, template string) []asker {
	askers := []asker{{name: "the VSphereMachine", reaches: true, labels: m.Labels, notes: m.Annotations}}
	if found := g.Templates[types.NamespacedName{Namespace: m.Namespace, Name: template}]; found != nil {
		askers = append(askers, asker{name: fmt.Sprintf("VSphereMachineTemplate %q", template), reaches: true, labels: found.GetLabels(), notes: found.GetAnnotations()})
	}
	for _, w := range g.Workloads {
		if slices.Contains(g.machinesOf(w), m) {
			askers = append(askers, asker{name: fmt.Sprintf("%s %q", w.GetKind(), w.GetName()), labels: w.GetLabels(), notes: w.GetAnnotations()})
		}
	}
	return askers
}

// misses are what is written there and does not reach the device.
func (a asker) misses(m *Machine, index int) []string {
	var problems []string
	for _, label := range []string{machine.PoolNameLabel, ipam.PoolGroupLabel, ipam.NetworkNameLabel} {
		value := a.labels[label]
		switch {
		case value == "":
		case !a.reaches:
			problems = append(problems, fmt.Sprintf("label %s=%s stands on %s itself, which hands nothing on; its metadata for machines would", label, value, a.name))
		default:
			problems = append(problems, fmt.Sprintf("label %s=%s stands on %s, but was not there when the machine was made, or was refused since: see its events", label, value, a.name))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(a.notes)) {
		device, is := strings.CutPrefix(key, ipam.PoolsAnnotationPrefix)
		switch {
		case !is:
		case !a.reaches:
			problems = append(problems, fmt.Sprintf("annotation %s stands on %s itself, which hands nothing on; its metadata for machines would", key, a.name))
		case !m.hasDevice(device):
			problems = append(problems, fmt.Sprintf("annotation %s of %s names a device that the machine does not have: its devices are %s", key, a.name, m.deviceNames()))
		case device == strconv.Itoa(index):
			problems = append(problems, fmt.Sprintf("annotation %s of %s asks for it, but was not there when the machine was made, or was refused since: see its events", key, a.name))
		}
	}
	return problems
}

func (m *Machine) hasDevice(key string) bool {
	for i := range m.Spec.Network.Devices {
		if key == strconv.Itoa(i) || key == m.Spec.Network.Devices[i].DeviceName {
			return true
		}
	}
	return false
}

func (m *Machine) deviceNames() string {
	var names []string
	for i := range m.Spec.Network.Devices {
		names = append(names, fmt.Sprintf("%d (%s)", i, cmp.Or(m.Spec.Network.Devices[i].DeviceName, m.Spec.Network.Devices[i].NetworkName)))
	}
	return strings.Join(names, ", ")
}

// ExplainOwner tells why a MachineSet or a control plane does not get its machines.
func (g *Graph) ExplainOwner(kind string, key types.NamespacedName) Story {
	s := Story{Title: fmt.Sprintf("%s %s", kind, key)}
	for _, owner := range g.Owners {
		if owner.Kind != kind || owner.Namespace != key.Namespace || owner.Name != key.Name {
			continue
		}
		s.Wrong = true
		s.say("Machines of it were refused. It waits for:")
		for _, obstacle := range slices.SortedFunc(maps.Keys(owner.Shortages), func(a, b retry.Obstacle) int { return cmp.Compare(a.String(), b.String()) }) {
			g.explainObstacle(&s, key.Namespace, obstacle, owner.Shortages[obstacle])
		}
		s.say("It is made to try again within seconds when that is there. The refusal itself is in its events.")
		s.Next = fmt.Sprintf("kubectl describe %s %s -n %s", strings.ToLower(kind), key.Name, key.Namespace)
		return s
	}
	s.say("No machine of it waits for an address.")
	return s
}

func (g *Graph) explainObstacle(s *Story, namespace string, obstacle retry.Obstacle, needed uint64) {
	if obstacle.Reason != "" {
		s.say("  %s to be mended", obstacle.Reason)
		return
	}
	pool := g.PoolOf(namespace, obstacle.Pool)
	if pool == nil || pool.Object == nil {
		s.say("  %s, which does not exist%s", obstacle.Pool, g.elsewhere(namespace, obstacle.Pool))
		return
	}
	usage := pool.Usage()
	if !usage.Known {
		s.say("  %d of %s", needed, pool)
		return
	}
	s.say("  %d of %s: %s of %s free, %d used, %d cooling", needed, pool, InWords(usage.Free), InWords(usage.Total), usage.Used, usage.Cooling)
}

// elsewhere names the namespaces that have a pool of this name.
func (g *Graph) elsewhere(namespace string, pool ipam.PoolReference) string {
	var found []string
	for _, p := range g.Pools {
		if p.Object != nil && p.Name == pool.Name && p.Namespace != namespace {
			found = append(found, p.String())
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "; there is " + strings.Join(found, ", ")
}

// ExplainWorkload tells what a MachineDeployment or KubeadmControlPlane asks for, and
// whether its next roll-out has what it needs.
func (g *Graph) ExplainWorkload(w *Workload) Story {
	s := Story{Title: fmt.Sprintf("%s %s/%s%s", w.GetKind(), w.GetNamespace(), w.GetName(), ofCluster(w.Cluster))}
	if w.AsksError != nil {
		s.Wrong = true
		s.say("! %v", w.AsksError)
	}
	for _, ask := range w.Asks {
		s.say("device %d %q asks by %s", ask.Device.Index, ask.Device.NetworkName, ask.AskedBy)
	}
	if len(w.Asks) == 0 && w.AsksError == nil {
		s.say("Its machines ask for no address of a pool.")
	}
	for _, d := range g.Demands() {
		if d.Workload == w {
			s.say("%s: its machines hold %d; a roll-out needs %d more, and %d are missing", d.Pool, d.Has, d.RollOut, d.Scale)
			if short := d.Short(); short > 0 {
				s.Wrong = true
				s.say("! %s is %d short", d.Pool, short)
				s.Next = fmt.Sprintf("kubectl static-ip pool %s/%s -n %s", d.Pool.Kind, d.Pool.Name, cmp.Or(d.Pool.Namespace, w.GetNamespace()))
			}
		}
	}
	for _, owner := range g.Owners {
		if owner.Namespace == w.GetNamespace() && (owner.Kind == w.GetKind() && owner.Name == w.GetName() || isOwnedBy(owner, w.Unstructured)) {
			refused := g.ExplainOwner(owner.Kind, types.NamespacedName{Namespace: owner.Namespace, Name: owner.Name})
			s.Wrong, s.Next = true, cmp.Or(s.Next, refused.Next)
			s.Lines = append(append(s.Lines, refused.Title), refused.Lines...)
		}
	}
	return s
}

func isOwnedBy(owner *Owner, workload *unstructured.Unstructured) bool {
	for _, ref := range owner.GetOwnerReferences() {
		if ref.UID == workload.GetUID() {
			return true
		}
	}
	return false
}

// Who tells everything that knows an address.
func (g *Graph) Who(ip netip.Addr) Story {
	s := Story{Title: ip.String()}
	pools := g.PoolsWith(ip)
	for _, pool := range pools {
		s.say("is in %s", pool)
		holdings := g.Holdings(pool)
		holding := slices.IndexFunc(holdings, func(h Holding) bool { return h.IP == ip })
		if holding < 0 {
			all, reserved, ok := pool.ranges()
			if ok && all.Contains(ip) && reserved.Contains(ip) {
				s.say("  reserved: the pool gives it to nobody")
			} else {
				s.say("  free")
			}
			continue
		}
		h := holdings[holding]
		s.say("  %s by %s %s%s, claim %s, address %s%s", h.State, h.Kind, h.NamespacedName, ofCluster(h.Cluster), h.Address.Claim, h.Address.GetName(), protection(h))
	}
	if len(pools) == 0 {
		s.say("is in no pool")
	}
	holders := 0
	for _, sighting := range g.Sightings(ip) {
		how := "written by hand, no claim"
		switch {
		case sighting.Held:
			how = "held"
		case sighting.Kind == capi.VSphereVMKind.Kind:
			how = "on the VM, or reported by its guest"
		}
		if sighting.Kind != capi.VSphereVMKind.Kind {
			holders++
		}
		s.say("on %s %s: %s", sighting.Kind, sighting.NamespacedName, how)
	}
	if holders > 1 {
		s.Wrong = true
		s.say("! %d objects have it", holders)
	}
	return s
}

func protection(h Holding) string {
	if h.Protected {
		return ", protected"
	}
	return ""
}

func ofCluster(name string) string {
	if name == "" {
		return ""
	}
	return " of Cluster " + name
}

func isTrue(b *bool) bool { return b != nil && *b }
