package inventory

import (
	"context"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/machine"
)

func (s Source) zones(ctx context.Context, g *Graph) {
	s.list(ctx, g, &capi.VSphereDeploymentZone{}, func(object client.Object) {
		g.makers.zones[object.GetName()] = object.(*capi.VSphereDeploymentZone)
	})
	s.list(ctx, g, &capi.VSphereFailureDomain{}, func(object client.Object) {
		g.makers.overlays[object.GetName()] = object.(*capi.VSphereFailureDomain)
	})
}

// FailureDomains are the objects of failure domains, by which machines may ask for pools.
func (g *Graph) FailureDomains() []client.Object {
	var all []client.Object
	for _, name := range slices.Sorted(maps.Keys(g.makers.zones)) {
		all = append(all, g.makers.zones[name])
	}
	for _, name := range slices.Sorted(maps.Keys(g.makers.overlays)) {
		all = append(all, g.makers.overlays[name])
	}
	return all
}

// placesOf are the failure domains that the machines of a workload are put into: what a
// MachineDeployment says, and those of a control plane that its Cluster has.
func (g *Graph) placesOf(w *Workload, cluster *capi.Cluster) []machine.Domain {
	var names []string
	switch {
	case !w.isControlPlane():
		names = []string{first(w.Unstructured, "spec.template.spec.failureDomain")}
	case cluster != nil:
		names = cluster.ControlPlaneDomains()
	}
	if len(names) == 0 {
		names = []string{""}
	}
	domains := make([]machine.Domain, 0, len(names))
	for _, name := range names {
		domains = append(domains, g.domain(name))
	}
	return domains
}

// domain is what there is of a failure domain.
func (g *Graph) domain(name string) machine.Domain {
	domain := machine.Domain{Name: name}
	zone := g.makers.zones[name]
	if zone == nil {
		return domain
	}
	domain.Askers = append(domain.Askers, askerOf(zone, capi.VSphereDeploymentZoneKind))
	domain.FailureDomain = zone.Spec.FailureDomain
	if overlay := g.makers.overlays[domain.FailureDomain]; overlay != nil {
		domain.Askers = append(domain.Askers, askerOf(overlay, capi.VSphereFailureDomainKind))
		domain.Topology = overlay.Spec.Topology
	}
	return domain
}

// askerOf is what an object of a failure domain asks for: by its annotations alone, as it is
// not about one machine.
func askerOf(object client.Object, kind schema.GroupKind) machine.Asker {
	return machine.Asker{
		Object: &metav1.ObjectMeta{Name: object.GetName(), Annotations: object.GetAnnotations()},
		Name:   fmt.Sprintf("%s %q", kind.Kind, object.GetName()), ForMany: true,
	}
}
