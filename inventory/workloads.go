package inventory

import (
	"context"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// autoscalerMax is the cluster autoscaler's annotation for the most machines
// (cluster-autoscaler/cloudprovider/clusterapi).
const autoscalerMax = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size"

// Workload is what makes machines of one template: a MachineDeployment or a
// KubeadmControlPlane.
type Workload struct {
	*unstructured.Unstructured
	Cluster string
	// Replicas are the machines that are wanted, and Max those that an autoscaler may want,
	// 0 if there is none.
	Replicas, Max int
	// Surge is how many machines more there may be in a roll-out, in its own words.
	Surge *intstr.IntOrString
	// OnDelete says that old machines are replaced when somebody deletes them.
	OnDelete bool
	// Template is the name of its VSphereMachineTemplate.
	Template string
	// Places are where its machines may be, and Asks what one asks for in the first of them.
	Places []Place
	Asks   []ipam.Ask
	// AsksError says why that is not known.
	AsksError error
	// Concurrency is how many MachineDeployments of its Cluster are rolled out at a time.
	Concurrency int
}

// Place is a failure domain that machines of a workload are in, without a name for those
// that are in none, and what one of them asks for there.
type Place struct {
	FailureDomain string
	Asks          []ipam.Ask
}

var workloadKinds = []schema.GroupKind{
	capi.MachineDeploymentKind,
	capi.KubeadmControlPlaneKind,
}

func (s Source) workloads(ctx context.Context, g *Graph) {
	s.listUnstructured(ctx, g, capi.VSphereMachineTemplateKind, func(template *unstructured.Unstructured) {
		g.Templates[client.ObjectKeyFromObject(template)] = template
	})
	s.zones(ctx, g)
	for _, kind := range workloadKinds {
		s.listUnstructured(ctx, g, kind, func(object *unstructured.Unstructured) {
			g.Workloads = append(g.Workloads, g.Workload(object))
		})
	}
}

// Workload is what a MachineDeployment or a KubeadmControlPlane, be it stored or not, makes
// of the templates, Clusters and failure domains that were read.
func (g *Graph) Workload(object *unstructured.Unstructured) *Workload {
	w := newWorkload(object)
	g.complete(w)
	return w
}

func (g *Graph) complete(w *Workload) {
	cluster := g.makers.clusters[client.ObjectKey{Namespace: w.GetNamespace(), Name: w.Cluster}]
	if cluster != nil {
		w.Concurrency, _ = strconv.Atoi(cluster.Annotations[clusterv1.ClusterTopologyUpgradeConcurrencyAnnotation])
	}
	w.asks(g.Templates[client.ObjectKey{Namespace: w.GetNamespace(), Name: w.Template}], g.placesOf(w, cluster))
}

func (s Source) listUnstructured(ctx context.Context, g *Graph, kind schema.GroupKind, each func(*unstructured.Unstructured)) {
	s.list(ctx, g, s.unstructured(kind), func(object client.Object) { each(object.(*unstructured.Unstructured)) })
}

// unstructured is an empty object of a kind, in the version that is served.
func (s Source) unstructured(kind schema.GroupKind) *unstructured.Unstructured {
	empty := &unstructured.Unstructured{}
	empty.SetGroupVersionKind(capi.InScheme(s.Client.Scheme(), kind))
	return empty
}

// newWorkload reads a MachineDeployment or a KubeadmControlPlane of v1beta1 or v1beta2.
func newWorkload(object *unstructured.Unstructured) *Workload {
	w := &Workload{Unstructured: object, Cluster: object.GetLabels()[clusterv1.ClusterNameLabel]}
	replicas, found, _ := unstructured.NestedInt64(object.Object, "spec", "replicas")
	if !found {
		replicas = 1
	}
	w.Replicas = int(replicas)
	w.Max, _ = strconv.Atoi(object.GetAnnotations()[autoscalerMax])
	if name := first(object, "spec.clusterName"); name != "" {
		w.Cluster = name
	}
	if w.isControlPlane() {
		w.Template = first(object, "spec.machineTemplate.spec.infrastructureRef.name", "spec.machineTemplate.infrastructureRef.name")
		w.Surge = surgeAt(object, "spec.rollout.strategy.rollingUpdate", "spec.rolloutStrategy.rollingUpdate")
		return w
	}
	w.Template = first(object, "spec.template.spec.infrastructureRef.name")
	w.Surge = surgeAt(object, "spec.rollout.strategy.rollingUpdate", "spec.strategy.rollingUpdate")
	w.OnDelete = first(object, "spec.rollout.strategy.type", "spec.strategy.type") == "OnDelete"
	return w
}

// asks finds out what a machine of this workload asks for in each of the failure domains
// that it may be in: by the metadata that it hands to its machines, and by its template.
func (w *Workload) asks(template *unstructured.Unstructured, domains []machine.Domain) {
	m, err := w.Machine(template)
	if err != nil {
		w.AsksError = err
		return
	}
	w.askIn(domains, m, template)
}

// askIn finds out what a machine of a template, if there is one, asks for in each of these
// failure domains.
func (w *Workload) askIn(domains []machine.Domain, m *machine.Machine, template *unstructured.Unstructured) {
	asked := []machine.Asker{{Object: &m.ObjectMeta, Name: "the VSphereMachine"}}
	if template != nil {
		asked = append(asked, machine.Asker{Object: template, Name: fmt.Sprintf("VSphereMachineTemplate %q", template.GetName())})
	}
	for _, domain := range domains {
		in := []machine.Domain{domain}
		asks, _, err := m.AsksIn(in, asked)
		if err != nil {
			w.AsksError = err
			continue
		}
		place := Place{FailureDomain: domain.Name}
		for _, ask := range asks {
			ask.Sites = m.SitesOf(ask.Device.Index, in)
			place.Asks = append(place.Asks, ask.Ask)
		}
		w.Places = append(w.Places, place)
	}
	if len(w.Places) > 0 {
		w.Asks = w.Places[0].Asks
	}
}

// Lone is a VSphereMachine as a workload of one, which holds nothing yet.
func (g *Graph) Lone(object *unstructured.Unstructured) *Workload {
	w := &Workload{Unstructured: object, Cluster: object.GetLabels()[clusterv1.ClusterNameLabel], Replicas: 1, OnDelete: true}
	m := &machine.Machine{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, m); err != nil {
		w.AsksError = fmt.Errorf("reading VSphereMachine %q: %w", object.GetName(), err)
		return w
	}
	w.Template = object.GetAnnotations()[clusterv1.TemplateClonedFromNameAnnotation]
	w.askIn([]machine.Domain{{}}, m, g.Templates[client.ObjectKey{Namespace: w.GetNamespace(), Name: w.Template}])
	return w
}

// Machine is what one of its machines is, made of this template.
func (w *Workload) Machine(template *unstructured.Unstructured) (*machine.Machine, error) {
	if template == nil {
		return nil, fmt.Errorf("VSphereMachineTemplate %q does not exist, or cannot be read", w.Template)
	}
	m := &machine.Machine{}
	spec, _, _ := unstructured.NestedMap(template.Object, "spec", "template", "spec")
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"spec": spec}, m); err != nil {
		return nil, fmt.Errorf("reading VSphereMachineTemplate %q: %w", w.Template, err)
	}
	m.Namespace, m.Labels, m.Annotations = w.GetNamespace(), map[string]string{}, map[string]string{}
	w.handDown(m, template, "spec", "template", "metadata")
	if w.isControlPlane() {
		w.handDown(m, w.Unstructured, "spec", "machineTemplate", "metadata")
	} else {
		w.handDown(m, w.Unstructured, "spec", "template", "metadata")
	}
	return m, nil
}

func (w *Workload) isControlPlane() bool { return w.GetKind() == capi.KubeadmControlPlaneKind.Kind }

// handDown gives a machine the labels and annotations that its makers write on it.
func (w *Workload) handDown(m *machine.Machine, from *unstructured.Unstructured, path ...string) {
	labels, _, _ := unstructured.NestedStringMap(from.Object, append(path, "labels")...)
	annotations, _, _ := unstructured.NestedStringMap(from.Object, append(path, "annotations")...)
	for key, value := range labels {
		m.Labels[key] = value
	}
	for key, value := range annotations {
		m.Annotations[key] = value
	}
}
