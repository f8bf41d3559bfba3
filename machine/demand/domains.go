package demand

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheredeploymentzones;vspherefailuredomains,verbs=get;list;watch
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=machines;machinesets,verbs=get

// TakesDHCPAway tells whether there is a failure domain that takes DHCP away from a device,
// which may then wait for an address.
func (r *Reader) TakesDHCPAway(ctx context.Context) (bool, error) {
	domains := &capi.VSphereFailureDomainList{}
	if err := r.Cache.List(ctx, domains, client.UnsafeDisableDeepCopy); err != nil {
		if kube.IsAbsent(err) {
			return false, nil
		}
		return false, fmt.Errorf("listing VSphereFailureDomains: %w", err)
	}
	isNo := func(says *bool) bool { return says != nil && !*says }
	return slices.ContainsFunc(domains.Items, func(domain capi.VSphereFailureDomain) bool {
		return slices.ContainsFunc(domain.Spec.Topology.NetworkConfigurations, func(c capi.NetworkConfiguration) bool { return isNo(c.DHCP4) || isNo(c.DHCP6) })
	}), nil
}

// possible are the failure domains of which a machine is, or will be, in one.
type possible struct {
	// names are those of VSphereDeploymentZones; an empty one stands for none.
	names []string
	// says is how a sentence begins that names them.
	says string
}

// domains are the failure domains that the machine is in or may yet get, by their names.
// There are none where there is no VSphereDeploymentZone at all: then nothing is read.
func (r *Reader) domains(ctx context.Context, m *machine.Machine) (domains []machine.Domain, says string, err error) {
	zones := &capi.VSphereDeploymentZoneList{}
	err = r.Cache.List(ctx, zones, client.UnsafeDisableDeepCopy)
	switch {
	case kube.IsAbsent(err), err == nil && len(zones.Items) == 0:
		return nil, "", nil
	case err != nil:
		return nil, "", fmt.Errorf("listing VSphereDeploymentZones: %w", err)
	}
	all := possible{names: []string{""}, says: "the machine may be in"}
	for i := range zones.Items {
		all.names = append(all.names, zones.Items[i].Name)
	}
	which, err := r.possible(ctx, m, all)
	if err != nil {
		return nil, "", err
	}
	slices.Sort(which.names)
	for _, name := range which.names {
		domain, err := r.domain(ctx, name)
		if err != nil {
			return nil, "", err
		}
		domains = append(domains, domain)
	}
	return domains, which.says, nil
}

// possible are the failure domains that are left by what made the machine. A MachineSet
// has one for all of its machines. A control plane puts each of its machines into one of
// its Cluster's, as it sees them, and says which only in the Machine, which it makes
// after the VSphereMachine. It cannot be foretold: ties go by chance.
func (r *Reader) possible(ctx context.Context, m *machine.Machine, all possible) (possible, error) {
	for _, known := range []struct {
		kind   string
		fields []string
	}{
		{"Machine", []string{"spec", "failureDomain"}},
		{"MachineSet", []string{"spec", "template", "spec", "failureDomain"}},
	} {
		i := slices.IndexFunc(m.OwnerReferences, func(owner metav1.OwnerReference) bool {
			return owner.Kind == known.kind && groupOf(owner) == clusterv1.GroupVersion.Group
		})
		if i < 0 {
			continue
		}
		name, found, err := r.domainIn(ctx, m.Namespace, m.OwnerReferences[i], known.fields)
		if err != nil {
			return possible{}, err
		}
		if found {
			return possible{names: []string{name}, says: fmt.Sprintf("%s %q is for", known.kind, m.OwnerReferences[i].Name)}, nil
		}
	}
	if _, isControlPlane := m.Labels[clusterv1.MachineControlPlaneLabel]; !isControlPlane {
		return all, nil
	}
	return r.ofControlPlane(ctx, m, all)
}

// ofControlPlane are the failure domains of control plane machines of the machine's
// Cluster. The API server is asked: the control plane's controller may have seen what the
// cache has not.
func (r *Reader) ofControlPlane(ctx context.Context, m *machine.Machine, all possible) (possible, error) {
	name := m.Labels[clusterv1.ClusterNameLabel]
	if name == "" {
		return all, nil
	}
	cluster := &capi.Cluster{}
	err := r.Live.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, cluster)
	if kube.IsAbsent(err) {
		return all, nil
	}
	if err != nil {
		return possible{}, fmt.Errorf("reading Cluster %s/%s: %w", m.Namespace, name, err)
	}
	which := possible{names: cluster.ControlPlaneDomains(), says: fmt.Sprintf("the control plane of Cluster %q is for", name)}
	if len(which.names) == 0 {
		which.names = []string{""}
	}
	return which, nil
}

func groupOf(owner metav1.OwnerReference) string {
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return ""
	}
	return gv.Group
}

// domainIn reads the failure domain in these fields of the machine's owner.
func (r *Reader) domainIn(ctx context.Context, namespace string, owner metav1.OwnerReference, fields []string) (name string, found bool, err error) {
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(capi.InScheme(r.Scheme, schema.GroupKind{Group: clusterv1.GroupVersion.Group, Kind: owner.Kind}))
	err = r.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: owner.Name}, obj)
	switch {
	case kube.IsAbsent(err), err == nil && obj.GetUID() != owner.UID:
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("reading %s %s/%s: %w", owner.Kind, namespace, owner.Name, err)
	}
	name, _, err = unstructured.NestedString(obj.Object, fields...)
	if err != nil {
		return "", false, fmt.Errorf("reading the failure domain of %s %s/%s: %w", owner.Kind, namespace, owner.Name, err)
	}
	return name, true, nil
}

// domain reads what there is of a failure domain. Of one whose objects are missing CAPV
// lays nothing over the machine, and neither do we.
func (r *Reader) domain(ctx context.Context, name string) (machine.Domain, error) {
	domain := machine.Domain{Name: name}
	if name == "" {
		return domain, nil
	}
	zone := &capi.VSphereDeploymentZone{}
	if found, err := r.global(ctx, name, zone); !found || err != nil {
		return domain, err
	}
	domain.Askers = append(domain.Askers, asker(zone, capi.VSphereDeploymentZoneKind))
	domain.FailureDomain = zone.Spec.FailureDomain
	overlay := &capi.VSphereFailureDomain{}
	if found, err := r.global(ctx, domain.FailureDomain, overlay); !found || err != nil {
		return domain, err
	}
	domain.Askers = append(domain.Askers, asker(overlay, capi.VSphereFailureDomainKind))
	domain.Topology = overlay.Spec.Topology
	return domain, nil
}

// global reads an object without a namespace, live if the cache has none: zones are often
// made in the same breath as their machines.
func (r *Reader) global(ctx context.Context, name string, obj client.Object) (found bool, err error) {
	for _, reader := range []client.Reader{r.Cache, r.Live} {
		err := reader.Get(ctx, client.ObjectKey{Name: name}, obj)
		if err == nil {
			return true, nil
		}
		if !kube.IsAbsent(err) {
			return false, fmt.Errorf("reading %T %s: %w", obj, name, err)
		}
	}
	return false, nil
}

// asker is what an object of a failure domain asks for, by its annotations alone. Labels
// ask for all devices of a machine, and a zone is not about one machine.
func asker(obj client.Object, kind schema.GroupKind) machine.Asker {
	return machine.Asker{
		Object: &metav1.ObjectMeta{Name: obj.GetName(), Annotations: obj.GetAnnotations()},
		Name:   fmt.Sprintf("%s %q", kind.Kind, obj.GetName()), ForMany: true,
	}
}
