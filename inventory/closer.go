package inventory

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
	"capv-static-ip.dev/machine/demand"
)

// reportedBy is who writes the Events of capv-static-ip.
const reportedBy = "capv-static-ip"

// closer is what is read beside a Graph to explain what has one name.
type closer struct {
	// topology is the Cluster of that name with its conditions, nil if there is none.
	topology *unstructured.Unstructured
	sets     []*unstructured.Unstructured
	events   []*corev1.Event
	machines map[types.UID]*asked
	// endpoints are by the UIDs of VSphereClusters.
	endpoints map[types.UID]*asked
}

// asked is what the code of the manager says of an object.
type asked struct {
	asks     []ipam.Ask
	warnings []string
	// refused is why the asks cannot be served now, or cannot be understood.
	refused error
	// cluster is the Cluster of a VSphereCluster, nil if there is none.
	cluster *capi.Cluster
	// leave says why a VSphereCluster is left alone.
	leave string
}

// LookCloser reads what it takes to explain what has this name: who makes machines there,
// what was said of them, and what each of that name asks for, by the code of the manager.
func (s Source) LookCloser(ctx context.Context, g *Graph, key types.NamespacedName) {
	s.Namespace = key.Namespace
	g.closer = &closer{machines: map[types.UID]*asked{}, endpoints: map[types.UID]*asked{}}
	if g.cluster(key.Namespace, key.Name) != nil {
		one := client.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, key.Name)}
		s.listBy(ctx, g, s.unstructured(capi.ClusterKind), one, func(o client.Object) { g.closer.topology = o.(*unstructured.Unstructured) })
	}
	s.listUnstructured(ctx, g, capi.MachineSetKind, func(o *unstructured.Unstructured) { g.closer.sets = append(g.closer.sets, o) })
	ours := client.ListOptions{FieldSelector: fields.OneTermEqualSelector("reportingComponent", reportedBy)}
	s.listBy(ctx, g, &corev1.Event{}, ours, func(o client.Object) { g.closer.events = append(g.closer.events, o.(*corev1.Event)) })
	for _, m := range g.Machines {
		owner, _ := machine.OwnerOf(m)
		if m.Namespace == key.Namespace && (m.Name == key.Name || owner.Name == key.Name) {
			g.closer.machines[m.UID] = s.askMachine(ctx, m)
		}
	}
	for _, c := range g.Clusters {
		if c.Namespace == key.Namespace && (c.Name == key.Name || c.Labels[clusterv1.ClusterNameLabel] == key.Name) {
			g.closer.endpoints[c.UID] = s.askEndpoint(ctx, c)
		}
	}
}

func (s Source) demand() *demand.Reader {
	return &demand.Reader{Cache: s.Client, Live: s.Client, Scheme: s.Client.Scheme()}
}

// askMachine finds out what a machine asks for, those of its devices too that have their
// addresses already, and whether what it has not could be given now.
func (s Source) askMachine(ctx context.Context, m *Machine) *asked {
	bare, err := m.withoutHeld()
	if err != nil {
		return &asked{refused: err}
	}
	found := &asked{}
	if found.asks, found.warnings, found.refused = s.demand().Asks(ctx, bare); found.refused != nil {
		return found
	}
	waiting := slices.DeleteFunc(slices.Clone(found.asks), func(ask ipam.Ask) bool {
		return slices.ContainsFunc(m.Bindings, func(b ipam.Binding) bool { return b.Device.Index == ask.Device.Index })
	})
	if len(waiting) > 0 {
		found.refused = s.check(ctx, bare.Identity(), m.UID, waiting)
	}
	return found
}

// check asks the allocator whether something could be given now. It changes nothing.
func (s Source) check(ctx context.Context, who ipam.Machine, uid types.UID, asks []ipam.Ask) error {
	a := allocator.New(s.Providers, s.Client, s.Client)
	a.Freezer = allocator.Freezer{Providers: s.Providers, Live: s.Client}
	_, err := a.Check(ctx, allocator.Request{Machine: who, UID: uid, Asks: asks})
	return err
}

// askEndpoint finds out what a VSphereCluster asks for its endpoint, and whether that could
// be given now.
func (s Source) askEndpoint(ctx context.Context, c *Cluster) *asked {
	vsphere := &machine.VSphereCluster{ObjectMeta: c.ObjectMeta}
	vsphere.Spec.ControlPlaneEndpoint.Host = c.Spec.ControlPlaneEndpoint.Host
	ask, cluster, err := s.demand().Endpoint(ctx, vsphere)
	found := &asked{cluster: cluster, refused: err}
	if err != nil || ask == nil {
		return found
	}
	found.asks = []ipam.Ask{*ask}
	if vsphere.Host() != "" {
		return found
	}
	if _, found.leave = machine.EndpointFor(cluster, c.Bindings); found.leave == "" {
		found.refused = s.check(ctx, vsphere.Identity(cluster), c.UID, found.asks)
	}
	return found
}

// withoutHeld is a machine as the manager reads it, as if its devices had not been given
// their addresses.
func (m *Machine) withoutHeld() (*machine.Machine, error) {
	raw, err := json.Marshal(m.VSphereMachine)
	if err != nil {
		return nil, fmt.Errorf("reading VSphereMachine %s: %w", m.Name, err)
	}
	bare, err := machine.Decode(raw)
	if err != nil {
		return nil, err
	}
	for _, b := range m.Bindings {
		if b.Device.Index < len(bare.Spec.Network.Devices) {
			bare.Spec.Network.Devices[b.Device.Index].IPAddrs = nil
		}
	}
	return bare, nil
}

// told is an Event that may have come several times.
type told struct {
	*corev1.Event
	count int32
	last  time.Time
}

// String is how a story names it.
func (t told) String() string { return t.Reason + ": " + t.Message }

// toldOf are our warnings of an object, the last first, the same text once.
func (g *Graph) toldOf(kind, namespace, name string) []told {
	if g.closer == nil {
		return nil
	}
	var all []told
	for _, e := range g.closer.events {
		if e.InvolvedObject.Kind != kind || e.InvolvedObject.Name != name || e.Namespace != namespace || e.Type != corev1.EventTypeWarning {
			continue
		}
		next := told{Event: e, count: max(e.Count, 1), last: latest(e.LastTimestamp, metav1.Time(e.EventTime), e.CreationTimestamp)}
		if e.Series != nil {
			next.count, next.last = max(next.count, e.Series.Count), latest(metav1.Time(e.Series.LastObservedTime), metav1.Time{Time: next.last})
		}
		i := slices.IndexFunc(all, func(t told) bool { return t.String() == next.String() })
		if i < 0 {
			all = append(all, next)
			continue
		}
		all[i].count, all[i].last = all[i].count+next.count, latest(metav1.Time{Time: all[i].last}, metav1.Time{Time: next.last})
	}
	slices.SortFunc(all, func(a, b told) int { return cmp.Or(b.last.Compare(a.last), cmp.Compare(a.String(), b.String())) })
	return all
}

func latest(times ...metav1.Time) time.Time {
	last := time.Time{}
	for _, t := range times {
		if t.After(last) {
			last = t.Time
		}
	}
	return last
}

// cluster is a Cluster that was read, nil if there is none.
func (g *Graph) cluster(namespace, name string) *capi.Cluster {
	return g.makers.clusters[types.NamespacedName{Namespace: namespace, Name: name}]
}

// ClusterOf is the Cluster that an object says it is of, nil if it does not exist.
func (g *Graph) ClusterOf(object client.Object) *capi.Cluster {
	name := object.GetLabels()[clusterv1.ClusterNameLabel]
	for _, cluster := range g.CAPIClusters {
		if cluster.Namespace == object.GetNamespace() && cluster.Name == name {
			return cluster
		}
	}
	return nil
}

// machineSet is a MachineSet that was read, nil if there is none.
func (g *Graph) machineSet(namespace, name string) *unstructured.Unstructured {
	if g.closer == nil {
		return nil
	}
	for _, o := range g.closer.sets {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o
		}
	}
	return nil
}
