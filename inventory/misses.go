package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// askLabels are the labels by which pools are asked for.
var askLabels = []string{machine.PoolNameLabel, ipam.PoolGroupLabel, ipam.NetworkNameLabel}

// written is where somebody may have asked for a pool.
type written struct {
	name string
	// instead is where it would have an effect, empty if it has one here.
	instead string
	labels  map[string]string
	notes   map[string]string
}

// explainMisses tells what was nearly right, and what would be.
func (g *Graph) explainMisses(s *Story, m *Machine) {
	places := g.placesAround(m)
	for _, p := range places {
		for _, miss := range p.misses(m) {
			s.say(1, "%s", miss)
		}
	}
	template := m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	if template == "" || hasBegun(m, g.vmOf[m.UID]) {
		s.next("name a pool on what makes the machine, with label %s=POOL, then replace the machine: kubectl delete machine %s -n %s",
			machine.PoolNameLabel, machineName(m), m.Namespace)
		return
	}
	s.next("%s", labelTemplate(m.Namespace, template, places))
}

// labelTemplate is the command that names a pool on a template: that which somebody has
// named in vain, if there is one.
func labelTemplate(namespace, template string, places []written) string {
	pool := "POOL"
	for _, p := range places {
		if name := p.labels[machine.PoolNameLabel]; name != "" {
			pool = name
		}
	}
	return fmt.Sprintf("kubectl label vspheremachinetemplate %s -n %s %s=%s   (its machines that wait are served in place)",
		template, namespace, machine.PoolNameLabel, pool)
}

// placesAround are the objects around a machine: those that count, and those on which
// people write in vain.
func (g *Graph) placesAround(m *Machine) []written {
	places := []written{{name: "the VSphereMachine", labels: m.Labels, notes: m.Annotations}}
	template := m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	if found := g.Templates[types.NamespacedName{Namespace: m.Namespace, Name: template}]; found != nil {
		places = append(places, written{name: fmt.Sprintf("VSphereMachineTemplate %q", template), labels: found.GetLabels(), notes: found.GetAnnotations()})
	}
	if set := g.machineSet(m.Namespace, m.Labels[clusterv1.MachineSetNameLabel]); set != nil {
		places = append(places, writtenOn(set, "its spec.template.metadata"))
	}
	for _, w := range g.Workloads {
		if w.GetNamespace() == m.Namespace && slices.Contains(g.machinesOf(w), m) {
			places = append(places, w.written())
		}
	}
	if cluster := g.cluster(m.Namespace, m.Labels[clusterv1.ClusterNameLabel]); cluster != nil {
		places = append(places, writtenOnCluster(cluster))
	}
	return places
}

// written is the workload's own metadata, which none of its machines has.
func (w *Workload) written() written {
	if w.GetKind() == capi.KubeadmControlPlaneKind.Kind {
		return writtenOn(w.Unstructured, "its spec.machineTemplate.metadata")
	}
	return writtenOn(w.Unstructured, "its spec.template.metadata")
}

func writtenOnCluster(cluster *capi.Cluster) written {
	return written{
		name: fmt.Sprintf("%s %q", capi.ClusterKind.Kind, cluster.Name), instead: "the metadata in its spec.topology, or that of the template,",
		labels: cluster.Labels, notes: cluster.Annotations,
	}
}

func writtenOn(object *unstructured.Unstructured, instead string) written {
	return written{
		name: fmt.Sprintf("%s %q", object.GetKind(), object.GetName()), instead: instead,
		labels: object.GetLabels(), notes: object.GetAnnotations(),
	}
}

// misses are what is written at a place and has no effect on the machine, nil for none.
func (p written) misses(m *Machine) []string {
	var misses []string
	miss := func(format string, args ...any) { misses = append(misses, fmt.Sprintf(format, args...)) }
	for _, key := range slices.Sorted(maps.Keys(p.labels)) {
		switch {
		case slices.Contains(askLabels, key) && p.instead != "":
			miss("Label %s=%s stands on %s itself, which hands nothing on: %s would.", key, p.labels[key], p.name, p.instead)
		case strings.HasPrefix(key, ipam.PoolsAnnotationPrefix):
			miss("%s is a label of %s: it has to be an annotation.", key, p.name)
		case mistyped(key) != "":
			miss("Label %s of %s is not known here: %s is meant?", key, p.name, mistyped(key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.notes)) {
		device, isOurs := strings.CutPrefix(key, ipam.PoolsAnnotationPrefix)
		switch {
		case slices.Contains(askLabels, key):
			miss("%s is an annotation of %s: it has to be a label.", key, p.name)
		case isOurs && device == ipam.EndpointDevice:
		case isOurs && p.instead != "":
			miss("Annotation %s stands on %s itself, which hands nothing on: %s would.", key, p.name, p.instead)
		case isOurs && m != nil && !m.hasDevice(device):
			miss("Annotation %s of %s is for a device that the machine does not have: its devices are %s.", key, p.name, m.deviceNames())
		case mistyped(key) != "":
			miss("Annotation %s of %s is not known here: %s is meant?", key, p.name, mistyped(key))
		}
	}
	return misses
}

// maxTypos is how many letters of a key may be wrong for one that is known to be meant.
const maxTypos = 3

// mistyped is the key that somebody has nearly written, empty if none.
func mistyped(key string) string {
	for _, known := range askLabels {
		if key != known && distance(key, known) <= maxTypos {
			return known
		}
	}
	prefix, device, found := strings.Cut(key, "/")
	known := strings.TrimSuffix(ipam.PoolsAnnotationPrefix, "/")
	if found && prefix != known && distance(prefix, known) <= maxTypos {
		return known + "/" + device
	}
	return ""
}

// distance is how many letters to add, take off or change to make one text the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal, row[j+1] = row[j+1], min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
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
