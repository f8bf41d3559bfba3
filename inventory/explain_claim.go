package inventory

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// ofClaim are the stories of claims of a kind.
func ofClaim(kind string) func(*Graph, types.NamespacedName) []Story {
	return func(g *Graph, key types.NamespacedName) []Story {
		var stories []Story
		for _, p := range g.Pools {
			for _, c := range p.Claims {
				if c.GetNamespace() == key.Namespace && c.GetName() == key.Name && claimKind(c) == kind {
					stories = append(stories, g.explainClaim(kind, p, c))
				}
			}
		}
		return stories
	}
}

// claimKind is the kind of a claim object: of two APIs, one has the word address in it.
func claimKind(c ipam.Claim) string {
	if strings.Contains(fmt.Sprintf("%T", c.Object), "IPAddressClaim") {
		return "IPAddressClaim"
	}
	return "IPClaim"
}

func (g *Graph) explainClaim(kind string, p *Pool, c ipam.Claim) Story {
	s := Story{Title: fmt.Sprintf("%s %s/%s", kind, c.GetNamespace(), c.GetName())}
	if p.Object == nil {
		s.warn(0, "%s does not exist", p)
	} else {
		s.field(0, "pool", "%s", inUse(p))
	}
	g.explainHolder(&s, c)
	switch {
	case c.Address != "":
		s.field(0, "address", "%s", strings.Join(p.addressesOf(c), ", "))
	default:
		s.warn(0, "it is not bound%s", providerSays(c))
	}
	g.explainClaimState(&s, p, c)
	return s
}

// addressesOf are the addresses of a claim with their objects.
func (p *Pool) addressesOf(c ipam.Claim) []string {
	var texts []string
	for _, a := range p.Addresses {
		if a.GetNamespace() == c.GetNamespace() && a.Claim == c.GetName() {
			texts = append(texts, fmt.Sprintf("%s, object %s, %s", a.IP, a.GetName(), protection(ipam.IsProtected(a.Object))))
		}
	}
	if len(texts) == 0 {
		return []string{c.Address + ", which does not exist"}
	}
	return texts
}

// explainHolder tells for whom a claim is.
func (g *Graph) explainHolder(s *Story, c ipam.Claim) {
	holder := ipam.HolderOf(c.Object)
	key := types.NamespacedName{Namespace: c.GetNamespace(), Name: holder.Name}
	switch {
	case holder.Name == "":
		s.field(0, "for", "somebody else than capv-static-ip%s", ownersOf(c))
	case holder.Kind == ipam.OfCluster:
		s.field(0, "for", "the endpoint of VSphereCluster %s", key)
	case g.Machine(key) == nil:
		s.field(0, "for", "VSphereMachine %s, which does not exist", key)
	default:
		s.field(0, "for", "VSphereMachine %s, device %s", key, c.GetAnnotations()[ipam.DeviceAnnotation])
	}
}

func ownersOf(c ipam.Claim) string {
	var owners []string
	for _, owner := range c.GetOwnerReferences() {
		owners = append(owners, owner.Kind+" "+owner.Name)
	}
	if len(owners) == 0 {
		return ""
	}
	return ", owned by " + strings.Join(owners, ", ")
}

// explainClaimState tells what a claim that is not simply a machine's is there for.
func (g *Graph) explainClaimState(s *Story, p *Pool, c ipam.Claim) {
	holder := ipam.HolderOf(c.Object)
	key := types.NamespacedName{Namespace: c.GetNamespace(), Name: holder.Name}
	annotations := c.GetAnnotations()
	_, isKept := annotations[ipam.KeptAnnotation]
	_, isNew := annotations[ipam.RequestedByAnnotation]
	aside, isAside := ipam.SetAsideOf(c.Object)
	switch {
	case !c.GetDeletionTimestamp().IsZero():
		s.say(0, "It is being deleted, and waits for who has the finalizers: %s.", strings.Join(c.GetFinalizers(), ", "))
	case isAside:
		s.say(0, "It keeps %s from being handed out, which no machine can be given (%s). It goes when that is over: "+
			"it is looked at every 30 s.", aside.IP, aside.Cause)
	case ipam.IsReleased(c.Object):
		s.say(0, "%s", g.cooling(p, c))
	case isKept:
		s.say(0, "It was not bound in time, and is kept for the next machine of the same owner.")
	case holder.Name == "" || holder.Kind == ipam.OfCluster || g.Machine(key) != nil:
	case isNew:
		s.say(0, "A request was answered with it, and its machine was not stored (yet). It is given back when --orphan-grace-period is over.")
	default:
		s.say(0, "It had a machine once (MachineMissing). If that does not come back, it is given back after an hour. "+
			"While its Cluster is paused it stays.")
	}
}

// cooling tells for how long something cools down.
func (g *Graph) cooling(p *Pool, c ipam.Claim) string {
	went := "Its machine is gone"
	if since, known := ipam.ReleasedAt(c.Object); known {
		went = fmt.Sprintf("Its machine went %s ago", duration.HumanDuration(g.At.Sub(since)))
	}
	if p.Object != nil {
		if text, says := p.Object.GetAnnotations()[ipam.ReuseAfterAnnotation]; says {
			return fmt.Sprintf("%s, and the address cools down for %s: annotation %s of %s.", went, text, ipam.ReuseAfterAnnotation, p)
		}
	}
	return went + ", and the address cools down for as long as --reuse-after of the manager says."
}

// addressStories tell of address objects of a name.
func (g *Graph) addressStories(key types.NamespacedName) []Story {
	var stories []Story
	for _, p := range g.Pools {
		for _, a := range p.Addresses {
			if a.GetNamespace() == key.Namespace && a.GetName() == key.Name {
				stories = append(stories, g.explainAddress(p, a))
			}
		}
	}
	return stories
}

func (g *Graph) explainAddress(p *Pool, a Address) Story {
	s := Story{Title: fmt.Sprintf("IPAddress %s/%s, of claim %s", a.GetNamespace(), a.GetName(), a.Claim)}
	h := g.holding(a)
	s.field(0, "address", "%s of %s", a.IP, p)
	s.field(0, string(h.State), "by %s %s%s", h.Kind, h.NamespacedName, ofCluster(h.Cluster))
	m := g.machineOf(a)
	switch isDeleted := !a.GetDeletionTimestamp().IsZero(); {
	case isDeleted && m != nil && m.DeletionTimestamp.IsZero():
		s.warn(0, "it is being deleted, because somebody deleted its claim. It is safe until the machine is gone: replace the machine when it suits you")
	case a.IsCooling():
		s.say(0, "Its machine is gone, and it is kept from being handed out: see its claim.")
	case isDeleted:
		s.say(0, "It is being deleted, and waits for who has the finalizers: %s.", strings.Join(a.GetFinalizers(), ", "))
	}
	if slices.Contains(a.GetFinalizers(), ipam.InUseFinalizer) {
		s.say(0, "%s holds it: a machine, its VM or the endpoint of a Cluster uses it, or it cools down.", ipam.InUseFinalizer)
	}
	return s
}

// ofPool are the stories of pools of a kind.
func ofPool(kind string) func(*Graph, types.NamespacedName) []Story {
	return func(g *Graph, key types.NamespacedName) []Story {
		for _, p := range g.Pools {
			if p.Kind == kind && p.Name == key.Name && (p.Namespace == key.Namespace || p.Namespace == "") && p.Object != nil {
				return []Story{g.explainPool(p)}
			}
		}
		return nil
	}
}

func (g *Graph) explainPool(p *Pool) Story {
	s := Story{Title: fmt.Sprintf("%s %s", p.Kind, strings.TrimPrefix(p.Namespace+"/"+p.Name, "/"))}
	s.say(0, "%s", inUse(p))
	for _, key := range ipam.Statements() {
		if text, says := p.Object.GetAnnotations()[key]; says {
			s.field(0, "it says", "%s: %s", key, text)
		}
	}
	for _, owner := range g.WaitingFor(p.PoolKey) {
		s.warn(0, "%s %s/%s waits for it", owner.Kind, owner.Namespace, owner.Name)
		s.next("kubectl static-ip pool %s/%s   (who has its addresses)", p.Kind, p.Name)
	}
	if !p.Object.GetDeletionTimestamp().IsZero() {
		s.warn(0, "it is being deleted, and goes when the last of its addresses is given back: %d are in use", p.Usage().Used)
		s.next("kubectl static-ip pool %s/%s   (who has its addresses)", p.Kind, p.Name)
	}
	for _, other := range g.Pools {
		if other != p && other.Object != nil && other.Name == p.Name && (other.Namespace == p.Namespace || other.Namespace == "") {
			s.say(0, "There is %s, too: the bare name means the IPPool, if there is one.", other)
		}
	}
	return s
}

// vmStories tell of a VSphereVM.
func (g *Graph) vmStories(key types.NamespacedName) []Story {
	for _, vm := range g.VMs {
		if vm.Namespace == key.Namespace && vm.Name == key.Name {
			return []Story{g.explainVM(vm)}
		}
	}
	return nil
}

func (g *Graph) explainVM(vm *capi.VSphereVM) Story {
	s := Story{Title: title(capi.VSphereVMKind.Kind, vm)}
	owner := capi.OwnerMachine(vm)
	m := g.Machine(types.NamespacedName{Namespace: vm.Namespace, Name: owner.Name})
	var wanted []string
	for i, device := range vm.Spec.Network.Devices {
		s.say(0, "device %d %q: %s", i, device.NetworkName, orNone(device.IPAddrs))
		wanted = append(wanted, device.IPAddrs...)
	}
	s.field(0, "guest", "%s", orNone(vm.Status.Addresses))
	for _, text := range wanted {
		ip := capi.ParseAddress(text)
		if len(vm.Status.Addresses) > 0 && !slices.ContainsFunc(vm.Status.Addresses, func(t string) bool { return capi.ParseAddress(t) == ip }) {
			s.warn(0, "its guest does not report %s", ip)
		}
	}
	switch {
	case m == nil || m.UID != owner.UID:
		s.warn(0, "its VSphereMachine %s does not exist: its addresses stay taken until the VM is gone", orNone([]string{owner.Name}))
	default:
		s.add(g.ExplainMachine(m))
	}
	return s
}

func orNone(texts []string) string {
	if text := strings.Join(texts, ", "); text != "" {
		return text
	}
	return "none"
}

func protection(protected bool) string {
	if protected {
		return "protected"
	}
	return "not protected"
}
