package migration

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/machine"
)

const machineKind = "VSphereMachine"

// Edit is what has to be written somewhere so that nothing asks for the old pool any more, or
// so that the new one says what the old one does.
type Edit struct {
	Kind string
	Key  types.NamespacedName
	// Where is the field, Now what it has, and Wanted what it has to have.
	Where, Now, Wanted string
	// ByHand says that it is left to the user, and Note what to know of that.
	ByHand bool
	Note   string

	object client.Object
	apply  func(client.Object)
}

// String is the edit for people.
func (e Edit) String() string {
	text := fmt.Sprintf("%s %s: %s", e.Kind, klog.KRef(e.Key.Namespace, e.Key.Name), e.Where)
	if e.Now != "" {
		text += " = " + e.Now
	}
	text += " -> " + e.Wanted
	if e.Note != "" {
		text += " (" + e.Note + ")"
	}
	return text
}

// metadata is a place in an object where pools are asked for.
type metadata struct {
	kind   string
	object client.Object
	// path is where it is, and byHand says that it is not edited here: its makers would undo
	// that, or it cannot be changed, or others go by it. The note tells where to do it, or what
	// it is for.
	path                []string
	byHand              bool
	note                string
	labels, annotations map[string]string
}

// metadataOf is what is at a path of an object.
func metadataOf(kind string, object *unstructured.Unstructured, byHand bool, path ...string) metadata {
	in := metadata{kind: kind, object: object, path: path, byHand: byHand}
	if _, owned := object.GetLabels()[clusterv1.ClusterTopologyOwnedLabel]; owned {
		in.byHand, in.note = true, "in the topology of its Cluster, or in its ClusterClass"
	}
	in.labels, _, _ = unstructured.NestedStringMap(object.Object, append(slices.Clone(path), "labels")...)
	in.annotations, _, _ = unstructured.NestedStringMap(object.Object, append(slices.Clone(path), "annotations")...)
	return in
}

// edits are all that are to be made.
func (m *Migration) edits(graph *inventory.Graph, from, to *inventory.Pool) []Edit {
	var edits []Edit
	for _, place := range places(graph) {
		if namespace := place.object.GetNamespace(); m.From.Namespace == "" || namespace == "" || namespace == m.From.Namespace {
			edits = append(edits, m.editsIn(graph, place)...)
		}
	}
	slices.SortFunc(edits, func(a, b Edit) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), compareKeys(a.Key, b.Key), cmp.Compare(a.Where, b.Where))
	})
	return append(edits, poolEdits(from, to)...)
}

// places are where pools are asked for. Of failure domains, annotations alone count.
func places(graph *inventory.Graph) []metadata {
	var all []metadata
	for _, template := range graph.Templates {
		kind := capi.VSphereMachineTemplateKind.Kind
		all = append(all, metadataOf(kind, template, false, "metadata"), metadataOf(kind, template, true, "spec", "template", "metadata"))
	}
	for _, w := range graph.Workloads {
		path := []string{"spec", "template", "metadata"}
		if w.GetKind() == capi.KubeadmControlPlaneKind.Kind {
			path = []string{"spec", "machineTemplate", "metadata"}
		}
		all = append(all, metadataOf(w.GetKind(), w.Unstructured, true, path...))
	}
	for _, domain := range graph.FailureDomains() {
		kind := capi.VSphereDeploymentZoneKind.Kind
		if _, isOverlay := domain.(*capi.VSphereFailureDomain); isOverlay {
			kind = capi.VSphereFailureDomainKind.Kind
		}
		all = append(all, metadata{
			kind: kind, object: domain, path: []string{"metadata"}, byHand: true, annotations: domain.GetAnnotations(),
			note: "it is for the machines of all namespaces",
		})
	}
	return all
}

// editsIn are those of one place: the label for all devices, and annotations for single ones.
func (m *Migration) editsIn(graph *inventory.Graph, in metadata) []Edit {
	var edits []Edit
	namespace := cmp.Or(in.object.GetNamespace(), m.From.Namespace)
	add := func(field, key, now, wanted string, byHand bool) {
		path := append(slices.Clone(in.path), field, key)
		edits = append(edits, Edit{
			Kind: in.kind, Key: client.ObjectKeyFromObject(in.object), Where: strings.Join(path[:len(path)-1], ".") + " " + key, Now: now, Wanted: wanted,
			ByHand: in.byHand || byHand, Note: in.note, object: in.object,
			apply: func(object client.Object) {
				// It is a map of texts, or the edit would not be here.
				_ = unstructured.SetNestedField(object.(*unstructured.Unstructured).Object, wanted, path...)
			},
		})
	}
	if name := in.labels[machine.PoolNameLabel]; name != "" && m.means(graph, namespace, name) {
		if m.isBare(graph, namespace) {
			add("labels", machine.PoolNameLabel, name, m.To.Name, false)
		} else {
			add("labels", machine.PoolNameLabel, name, "annotation "+ipam.PoolsAnnotationPrefix+"DEVICE: "+m.textOf(), true)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(in.annotations)) {
		now := in.annotations[key]
		if wanted := m.replaced(graph, namespace, now); strings.HasPrefix(key, ipam.PoolsAnnotationPrefix) && wanted != now {
			add("annotations", key, now, wanted, false)
		}
	}
	return edits
}

// means tells whether a reference as users write it means the old pool: a bare name is that
// of the IPPool, or else of the InClusterIPPool.
func (m *Migration) means(graph *inventory.Graph, namespace, text string) bool {
	kind, name, hasKind := strings.Cut(text, "/")
	if !hasKind {
		return text == m.From.Name && bare(graph, namespace, text) == m.From
	}
	return name == m.From.Name && (kind == m.From.Kind || kind == m.From.Kind+"."+m.From.APIGroup)
}

// isBare tells whether the new pool is what its bare name means.
func (m *Migration) isBare(graph *inventory.Graph, namespace string) bool {
	return bare(graph, namespace, m.To.Name) == m.To
}

// bare is the pool of a namespace that a bare name means, empty if that is none of it.
func bare(graph *inventory.Graph, namespace, name string) inventory.PoolKey {
	for _, kind := range []string{"IPPool", "InClusterIPPool"} {
		for _, pool := range graph.Pools {
			if pool.Object != nil && pool.Kind == kind && pool.Name == name && pool.Namespace == namespace {
				return pool.PoolKey
			}
		}
	}
	return inventory.PoolKey{}
}

// textOf is the new pool as users write it.
func (m *Migration) textOf() string { return m.To.KindName() + "/" + m.To.Name }

// replaced is what an annotation asks for, with the new pool in place of the old one.
func (m *Migration) replaced(graph *inventory.Graph, namespace, text string) string {
	addresses := strings.Split(text, ",")
	for i, address := range addresses {
		choices := strings.Split(address, "|")
		for j, choice := range choices {
			source, wanted, isGiven := strings.Cut(choice, "=")
			if !m.means(graph, namespace, strings.TrimSpace(source)) {
				continue
			}
			choices[j] = m.textOf()
			if isGiven {
				choices[j] += "=" + wanted
			}
		}
		addresses[i] = strings.Join(choices, "|")
	}
	return strings.Join(addresses, ",")
}

// poolEdits are what the new pool lacks of what the old one says of itself.
func poolEdits(from, to *inventory.Pool) []Edit {
	var edits []Edit
	add := func(field, key, wanted string, set func(client.Object, string, string)) {
		edits = append(edits, Edit{
			Kind: to.Kind, Key: client.ObjectKeyFromObject(to.Object), Where: "metadata." + field + " " + key, Wanted: wanted,
			object: to.Object, apply: func(object client.Object) { set(object, key, wanted) },
		})
	}
	old, has := from.Object.GetAnnotations(), to.Object.GetAnnotations()
	for _, key := range append(ipam.Statements(), ipam.SearchDomainsAnnotation, ipam.NameserversAnnotation) {
		if value, says := old[key]; says && has[key] == "" {
			add("annotations", key, value, kube.SetAnnotation)
		}
	}
	// Name servers that metal3 has in its spec are an annotation of pools of other providers.
	details := ipam.DetailsOf(from.Provider, from.Object)
	missing := len(ipam.DetailsOf(to.Provider, to.Object).Nameservers) == 0 && old[ipam.NameserversAnnotation] == ""
	if _, isMetal3 := to.Provider.(ipam.Twinned); missing && !isMetal3 && len(details.Nameservers) > 0 {
		add("annotations", ipam.NameserversAnnotation, strings.Join(details.Nameservers, ","), kube.SetAnnotation)
	}
	for _, key := range []string{ipam.PoolGroupLabel, ipam.NetworkNameLabel} {
		if value := from.Object.GetLabels()[key]; value != "" && to.Object.GetLabels()[key] == "" {
			add("labels", key, value, kube.SetLabel)
		}
	}
	return edits
}

// edit makes the edits, if it is to.
func (m *Migration) edit(ctx context.Context, p *Plan) error {
	for _, edit := range p.Edits {
		if !m.Templates || edit.ByHand {
			continue
		}
		object := edit.object.DeepCopyObject().(client.Object)
		if err := m.Client.Get(ctx, edit.Key, object); err != nil {
			if meta.IsNoMatchError(err) || client.IgnoreNotFound(err) == nil {
				continue
			}
			return fmt.Errorf("reading %s %s: %w", edit.Kind, edit.Key, err)
		}
		before := object.DeepCopyObject().(client.Object)
		edit.apply(object)
		if err := kube.PatchAsRead(ctx, m.Client, object, before); err != nil {
			return fmt.Errorf("editing %s %s: %w", edit.Kind, edit.Key, err)
		}
		m.Report("edited %s", edit)
	}
	return nil
}
