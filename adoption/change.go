package adoption

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/machine"
	"capv-static-ip.dev/machine/demand"
)

// defaultPoolLabel marked, for the adapter for ELF, a pool for all who name none.
const defaultPoolLabel = "ippool.cluster.x-k8s.io/is-default"

// changes are what asks for addresses in a way that the adapter knows and that is not kept:
// its machines would wait for ever, or be denied.
func (s *state) changes() []string {
	return slices.Concat(s.unnamedTemplates(), s.unnamedEndpoints(), s.poolsElsewhere())
}

// unnamedTemplates are templates in use that name no pool. The adapter took any pool of the
// namespace.
func (s *state) unnamedTemplates() []string {
	lacking := map[types.NamespacedName]*followers{}
	of := func(key types.NamespacedName) *followers {
		if lacking[key] == nil {
			lacking[key] = &followers{}
		}
		return lacking[key]
	}
	for _, w := range s.graph.Workloads {
		if s.lacksName(w) {
			template := of(types.NamespacedName{Namespace: w.GetNamespace(), Name: w.Template})
			template.makers = append(template.makers, w.GetKind()+" "+w.GetName())
		}
	}
	for _, m := range s.graph.Machines {
		if s.fateOf(m) == unnamed && s.hasPool(m.Namespace) {
			of(templateOf(m)).waiting++
		}
	}
	var texts []string
	for _, key := range sortedKeys(lacking) {
		text := fmt.Sprintf("VSphereMachineTemplate %s names no pool", key)
		if makers := lacking[key].makers; len(makers) > 0 {
			text += ", and is that of " + strings.Join(makers, ", ")
		}
		if count := lacking[key].waiting; count > 0 {
			text += fmt.Sprintf("; machines of it that wait: %d", count)
		}
		texts = append(texts, text+": "+s.howToName(key))
	}
	return texts
}

// followers are who would be given an address if a template named a pool.
type followers struct {
	makers  []string
	waiting int
}

// lacksName tells whether machines of a workload have a device that the adapter would give an
// address of any pool, and that nobody names a pool for.
func (s *state) lacksName(w *inventory.Workload) bool {
	template := s.graph.Templates[types.NamespacedName{Namespace: w.GetNamespace(), Name: w.Template}]
	if template == nil || w.AsksError != nil || !s.hasPool(w.GetNamespace()) {
		return false
	}
	m, err := w.Machine(template)
	if err != nil {
		return false
	}
	for i, device := range m.Spec.Network.Devices {
		isAsked := slices.ContainsFunc(w.Asks, func(ask ipam.Ask) bool { return ask.Device.Index == i })
		if machine.Eligible(device) && !isAsked {
			return true
		}
	}
	return false
}

// howToName is what to type, with the pool if all machines of the template have addresses of one.
func (s *state) howToName(template types.NamespacedName) string {
	pools := map[string]bool{}
	for _, pool := range s.graph.Pools {
		for _, c := range pool.Claims {
			owner, _ := ownerOf(c)
			if m := s.machines[cmp.Or(owner.UID, capi.OwnerMachine(c).UID)]; m != nil && templateOf(m) == template {
				pools[pool.Name] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(pools))
	name, text := "POOL", ""
	switch len(names) {
	case 0:
	case 1:
		name, text = names[0], fmt.Sprintf("its machines have addresses of IPPool %s; ", names[0])
	default:
		text = fmt.Sprintf("its machines have addresses of the IPPools %s; ", strings.Join(names, ", "))
	}
	if object := s.graph.Templates[template]; object != nil {
		if _, owned := object.GetLabels()[clusterv1.ClusterTopologyOwnedLabel]; owned {
			return text + fmt.Sprintf("it was made from a ClusterClass: set label %s=%s in the topology, see docs/clusterclass.md", machine.PoolNameLabel, name)
		}
	}
	return text + fmt.Sprintf("kubectl label vspheremachinetemplate %s -n %s %s=%s", template.Name, template.Namespace, machine.PoolNameLabel, name)
}

// unnamedEndpoints are VSphereClusters that wait for an endpoint and name no pool.
func (s *state) unnamedEndpoints() []string {
	var texts []string
	for _, c := range s.graph.Clusters {
		if s.waitsForEndpoint(c) && !machine.AsksForEndpoint(c) && s.hasPool(c.Namespace) {
			texts = append(texts, fmt.Sprintf("VSphereCluster %s/%s waits for its endpoint and names no pool: kubectl label vspherecluster %s -n %s %s=POOL",
				c.Namespace, c.Name, c.Name, c.Namespace, machine.PoolNameLabel))
		}
	}
	return texts
}

// poolsElsewhere are those who say that their pools are in another namespace.
func (s *state) poolsElsewhere() []string {
	var texts []string
	note := func(what string, o client.Object, marks map[string]string) {
		if namespace := marks[demand.PoolNamespaceKey]; namespace != "" && namespace != o.GetNamespace() {
			texts = append(texts, fmt.Sprintf("%s says with %s that its pools are in namespace %q: put them into namespace %s, and remove that",
				what, demand.PoolNamespaceKey, namespace, o.GetNamespace()))
		}
	}
	for _, c := range s.graph.CAPIClusters {
		note(fmt.Sprintf("Cluster %s/%s", c.Namespace, c.Name), c, c.Annotations)
	}
	for _, key := range sortedKeys(s.graph.Templates) {
		template := s.graph.Templates[key]
		note(fmt.Sprintf("VSphereMachineTemplate %s", key), template, template.GetLabels())
	}
	for _, c := range s.graph.Clusters {
		note(fmt.Sprintf("VSphereCluster %s/%s", c.Namespace, c.Name), c, c.Labels)
	}
	return texts
}

// changeNotes tell of what means nothing any more, and of templates that nobody uses.
func (s *state) changeNotes() []string {
	var notes []string
	for _, pool := range s.graph.Pools {
		if pool.Object != nil && pool.Object.GetLabels()[defaultPoolLabel] != "" {
			notes = append(notes, fmt.Sprintf("label %s of %s means nothing any more: name the pool on the template", defaultPoolLabel, pool))
		}
	}
	used := map[types.NamespacedName]bool{}
	for _, w := range s.graph.Workloads {
		used[types.NamespacedName{Namespace: w.GetNamespace(), Name: w.Template}] = true
	}
	for _, key := range sortedKeys(s.graph.Templates) {
		template := s.graph.Templates[key]
		if used[key] || !s.hasPool(key.Namespace) || asksForPool(template) || !machine.TemplateWaits(template) {
			continue
		}
		notes = append(notes, fmt.Sprintf("VSphereMachineTemplate %s names no pool; no MachineDeployment and no control plane uses it", key))
	}
	return notes
}

func asksForPool(o client.Object) bool {
	asker := machine.Asker{Object: o}
	return asker.AsksForPool()
}

// hasPool tells whether there is a pool in a namespace from which the adapter could give.
func (s *state) hasPool(namespace string) bool {
	return slices.ContainsFunc(s.graph.Pools, func(p *inventory.Pool) bool { return p.Namespace == namespace && p.Kind == "IPPool" && p.Object != nil })
}

func templateOf(m *inventory.Machine) types.NamespacedName {
	return types.NamespacedName{Namespace: m.Namespace, Name: m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]}
}

func sortedKeys[V any](of map[types.NamespacedName]V) []types.NamespacedName {
	return slices.SortedFunc(maps.Keys(of), func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
}
