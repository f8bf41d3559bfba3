package inventory

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// clusterStories tell of a Cluster: its endpoint, and what makes its machines.
func (g *Graph) clusterStories(key types.NamespacedName) []Story {
	cluster := g.cluster(key.Namespace, key.Name)
	if cluster == nil {
		return nil
	}
	s := Story{Title: "Cluster " + key.String()}
	if cluster.IsPaused() {
		s.say(0, "It is paused: nothing of it is given an address, and no address cools down to its end.")
	}
	if c := g.topologyOf(key); c["status"] == "False" {
		s.warn(0, "TopologyReconciled: %v", c["message"])
	}
	for _, c := range g.Clusters {
		if c.Namespace == key.Namespace && (c.Labels[clusterv1.ClusterNameLabel] == key.Name || cluster.Spec.InfrastructureRef.Name == c.Name) {
			s.add(g.ExplainEndpoint(c))
		}
	}
	for _, w := range g.Workloads {
		if w.GetNamespace() == key.Namespace && w.Cluster == key.Name {
			s.add(g.ExplainWorkload(w))
		}
	}
	for _, miss := range writtenOnCluster(cluster).misses(nil) {
		s.say(0, "%s", miss)
	}
	return []Story{s}
}

// topologyOf is what Cluster API says of the topology of a Cluster, if that was read.
func (g *Graph) topologyOf(key types.NamespacedName) map[string]any {
	if g.closer == nil || g.closer.topology == nil || client.ObjectKeyFromObject(g.closer.topology) != key {
		return nil
	}
	return conditionOf(g.closer.topology, "TopologyReconciled")
}

// ExplainEndpoint tells why a VSphereCluster has its endpoint, or none.
func (g *Graph) ExplainEndpoint(c *Cluster) Story {
	s := Story{Title: title(capi.VSphereClusterKind.Kind, c)}
	host := c.Spec.ControlPlaneEndpoint.Host
	found := &asked{}
	if g.closer != nil && g.closer.endpoints[c.UID] != nil {
		found = g.closer.endpoints[c.UID]
	}
	switch {
	case len(c.Bindings) > 0:
		g.explainBoundEndpoint(&s, c, found)
	case host != "":
		s.say(0, "Its endpoint is %s, written by hand: nobody claims it.", host)
		g.explainByHand(&s, c.Namespace, host)
	default:
		g.explainNoEndpoint(&s, c, found)
	}
	for _, kind := range []string{capi.VSphereClusterKind.Kind, capi.ClusterKind.Kind} {
		name := c.Name
		if kind == capi.ClusterKind.Kind {
			name = c.Labels[clusterv1.ClusterNameLabel]
		}
		for _, t := range g.toldOf(kind, c.Namespace, name) {
			if refusal, is := ipam.AsRefusal(found.refused); !is || refusal.Message != t.Message {
				s.say(0, "Events of the %s say (%s): %s", kind, g.often(t), t)
			}
		}
	}
	return s
}

func (g *Graph) explainBoundEndpoint(s *Story, c *Cluster, found *asked) {
	b := c.Bindings[0]
	s.say(0, "endpoint %s", b.Address.Addr())
	if len(found.asks) > 0 {
		s.field(1, "asked by", "%s", found.asks[0].AskedBy)
	}
	pool := g.PoolOf(c.Namespace, b.Pool)
	if pool == nil || pool.Object == nil {
		s.warn(1, "%s does not exist any more: the address stays", b.Pool.In(c.Namespace))
		return
	}
	s.field(1, "pool", "%s", inUse(pool))
	claim := slices.IndexFunc(pool.Claims, func(claim ipam.Claim) bool { return claim.GetNamespace() == c.Namespace && claim.GetName() == b.Claim })
	if claim < 0 {
		s.warn(1, "claim %s is not there", b.Claim)
	} else {
		s.field(1, "claim", "%s, bound", b.Claim)
	}
	for _, address := range pool.Addresses {
		if address.GetNamespace() == c.Namespace && address.Claim == b.Claim {
			s.field(1, "object", "%s, %s", address.GetName(), protection(ipam.IsProtected(address.Object)))
		}
	}
	if !c.DeletionTimestamp.IsZero() {
		s.say(0, "It is being deleted. Its address is free when it is gone.")
		return
	}
	s.say(0, "The address stays until the VSphereCluster is deleted. Whether somebody answers on it is for kube-vip, or a load balancer, to see to.")
}

// explainNoEndpoint tells why a VSphereCluster has no endpoint.
func (g *Graph) explainNoEndpoint(s *Story, c *Cluster, found *asked) {
	refusal, isRefused := ipam.AsRefusal(found.refused)
	switch {
	case !machine.AsksForEndpoint(c):
		s.say(0, "It has no endpoint, and does not ask for one itself.")
		if len(found.asks) > 0 {
			s.warn(0, "%s asks, which counts only beside an annotation or label of the VSphereCluster itself", found.asks[0].AskedBy)
		}
		s.next("kubectl annotate vspherecluster %s -n %s %s%s=POOL   (or set spec.controlPlaneEndpoint.host)",
			c.Name, c.Namespace, ipam.PoolsAnnotationPrefix, ipam.EndpointDevice)
	case isRefused:
		s.warn(0, "%s: %s", refusal.Reason, refusal.Message)
		s.see(refusal.Reason)
		g.explainElsewhere(s, c.Namespace, found.asks)
		s.say(0, "It is tried again when that changes.")
	case found.refused != nil:
		s.warn(0, "what it asks for cannot be found out: %v", found.refused)
	case found.cluster == nil:
		s.say(0, "Its Cluster does not exist: it gets its endpoint when that is there.")
	case found.leave != "":
		s.say(0, "%s.", found.leave)
	case annotations.HasPaused(c):
		s.say(0, "It is paused itself (annotation %s), and gets its endpoint when that is taken off.", clusterv1.PausedAnnotation)
	default:
		s.say(0, "It asks by %s, and there is an address for it: it gets that within seconds.", found.asks[0].AskedBy)
		s.next("kubectl -n capv-static-ip-system get pods   (if it does not)")
	}
}
