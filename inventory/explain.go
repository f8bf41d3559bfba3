package inventory

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/machine"
)

// explained is a kind that can be explained.
type explained struct {
	kind string
	// names are what else it is called.
	names []string
	// of are the stories of what has a name, none if nothing has.
	of func(g *Graph, key types.NamespacedName) []Story
}

func kinds() []explained {
	return []explained{
		{"VSphereMachine", nil, (*Graph).machineStories},
		{"Machine", []string{"ma"}, (*Graph).storiesOfMachine},
		{"MachineSet", []string{"ms"}, (*Graph).setStories},
		{"MachineDeployment", []string{"md"}, ofWorkload("MachineDeployment")},
		{capi.KubeadmControlPlaneKind.Kind, []string{"kcp"}, ofWorkload(capi.KubeadmControlPlaneKind.Kind)},
		{"Cluster", []string{"cl"}, (*Graph).clusterStories},
		{"VSphereCluster", nil, (*Graph).vsphereClusterStories},
		{"VSphereVM", nil, (*Graph).vmStories},
		{"IPClaim", nil, ofClaim("IPClaim")},
		{"IPAddressClaim", nil, ofClaim("IPAddressClaim")},
		{"IPAddress", nil, (*Graph).addressStories},
		{"IPPool", nil, ofPool("IPPool")},
		{"InClusterIPPool", nil, ofPool("InClusterIPPool")},
		{"GlobalInClusterIPPool", nil, ofPool("GlobalInClusterIPPool")},
	}
}

// Explained are the kinds that can be explained, in small letters.
func Explained() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, strings.ToLower(k.kind))
	}
	return names
}

// Explain tells what is known of the objects of a kind, in any way kubectl writes it, and a
// name. There are no stories if there is no such object, and it is false if the kind is
// none of Explained. LookCloser must have read what is around them.
func (g *Graph) Explain(kind string, key types.NamespacedName) (stories []Story, known bool) {
	kind, _, _ = strings.Cut(strings.ToLower(kind), ".")
	for _, k := range kinds() {
		name := strings.ToLower(k.kind)
		if kind == name || kind == name+"s" || kind == name+"es" || slices.Contains(k.names, kind) {
			return k.of(g, key), true
		}
	}
	return nil, false
}

func (g *Graph) machineStories(key types.NamespacedName) []Story {
	if m := g.Machine(key); m != nil {
		return []Story{g.ExplainMachine(m)}
	}
	return nil
}

// storiesOfMachine are those of the VSphereMachine that a Machine owns. CAPI gives both the
// same name.
func (g *Graph) storiesOfMachine(key types.NamespacedName) []Story {
	for _, m := range g.Machines {
		if owner, owned := machine.OwnerOf(m); owned && owner.Name == key.Name && m.Namespace == key.Namespace {
			return []Story{g.ExplainMachine(m)}
		}
	}
	return g.machineStories(key)
}

func (g *Graph) setStories(key types.NamespacedName) []Story {
	if g.machineSet(key.Namespace, key.Name) == nil {
		return nil
	}
	return []Story{g.ExplainOwner(capi.MachineSetKind.Kind, key)}
}

func ofWorkload(kind string) func(*Graph, types.NamespacedName) []Story {
	return func(g *Graph, key types.NamespacedName) []Story {
		for _, w := range g.Workloads {
			if w.GetNamespace() == key.Namespace && w.GetName() == key.Name && w.GetKind() == kind {
				return []Story{g.ExplainWorkload(w)}
			}
		}
		return nil
	}
}

func (g *Graph) vsphereClusterStories(key types.NamespacedName) []Story {
	for _, c := range g.Clusters {
		if c.Namespace == key.Namespace && c.Name == key.Name {
			return []Story{g.ExplainEndpoint(c)}
		}
	}
	return nil
}

// title names an object, and by whom it was made.
func title(kind string, object client.Object) string {
	var makers []string
	if owner, owned := machine.OwnerOf(object); owned {
		makers = append(makers, "Machine "+owner.Name)
	}
	labels := object.GetLabels()
	for _, maker := range []struct{ kind, label string }{
		{capi.MachineSetKind.Kind, clusterv1.MachineSetNameLabel},
		{capi.MachineDeploymentKind.Kind, clusterv1.MachineDeploymentNameLabel},
		{capi.KubeadmControlPlaneKind.Kind, clusterv1.MachineControlPlaneNameLabel},
		{capi.ClusterKind.Kind, clusterv1.ClusterNameLabel},
	} {
		if value := labels[maker.label]; value != "" && maker.kind != kind {
			makers = append(makers, maker.kind+" "+value)
		}
	}
	text := fmt.Sprintf("%s %s/%s", kind, object.GetNamespace(), object.GetName())
	if len(makers) > 0 {
		text += ", of " + strings.Join(makers, ", ")
	}
	return text
}
