package demand

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachinetemplates,verbs=get;list;watch

// Reader reads what machines ask for.
type Reader struct {
	// Cache reads templates and Clusters from informers, Live from the API server.
	Cache, Live client.Reader
	// Scheme knows the versions in which kinds are read.
	Scheme *runtime.Scheme
}

// Asks lists what the machine's eligible devices ask for, an address at a time, and
// warns of what is asked for in vain. It returns ipam.ErrUndecided if that depends on the
// machine's failure domain, and this is not known yet.
func (r *Reader) Asks(ctx context.Context, m *machine.Machine) (asks []ipam.Ask, warnings []string, err error) {
	domains, says, err := r.domains(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	asked, err := r.askers(ctx, m, domains)
	if err != nil {
		return nil, nil, err
	}
	all, warnings, err := m.AsksIn(domains, asked)
	if err != nil {
		return nil, nil, err
	}
	for _, ask := range all {
		if ask.From != nil {
			if err := r.checkPoolsHere(ctx, m, *ask.From); err != nil {
				return nil, nil, err
			}
		}
		ask.Sites, ask.DomainsOf = m.SitesOf(ask.Device.Index, domains), says
		asks = append(asks, ask.Ask)
	}
	return asks, warnings, nil
}

// askers are the machine and its template; the machine's own metadata wins. Where
// it names a pool for every device that is eligible in any of these failure domains, what
// the cache knows of the template will do.
func (r *Reader) askers(ctx context.Context, m *machine.Machine, domains []machine.Domain) ([]machine.Asker, error) {
	own := machine.Asker{Object: &m.ObjectMeta, Name: "the VSphereMachine"}
	if m.Annotations[clusterv1.TemplateClonedFromGroupKindAnnotation] != capi.VSphereMachineTemplateKind.String() {
		return []machine.Asker{own}, nil
	}
	name := m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	template, err := r.template(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, own.AnswersIn(m, domains))
	if err != nil {
		return nil, err
	}
	return []machine.Asker{own, {Object: template, Name: fmt.Sprintf("VSphereMachineTemplate %q", name)}}, nil
}

// template reads the metadata of a template, empty if there is none. Where the cache
// has none, or none that asks for a pool, the API server is asked: a template is often
// made in the same breath as its machines. For a machine that names its pools itself,
// one in the cache will do.
func (r *Reader) template(ctx context.Context, key client.ObjectKey, cachedWillDo bool) (*metav1.PartialObjectMetadata, error) {
	found := &metav1.PartialObjectMetadata{}
	for _, reader := range []client.Reader{r.Cache, r.Live} {
		template := kube.MetadataOf(capi.InScheme(r.Scheme, capi.VSphereMachineTemplateKind))
		err := reader.Get(ctx, key, template)
		switch {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return nil, fmt.Errorf("reading VSphereMachineTemplate %s: %w", key, err)
		case cachedWillDo, machine.Asker{Object: template}.AsksForPool():
			return template, nil
		}
		found = template
	}
	return found, nil
}

// IsPaused tells whether the machine's Cluster is paused. A Cluster that does
// not exist is not.
func (r *Reader) IsPaused(ctx context.Context, m *machine.Machine) (bool, error) {
	name := m.Labels[clusterv1.ClusterNameLabel]
	if name == "" {
		return false, nil
	}
	cluster := &capi.Cluster{}
	err := r.Cache.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, cluster)
	if kube.IsAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Cluster %s/%s: %w", m.Namespace, name, err)
	}
	return cluster.IsPaused(), nil
}

// Sources are the kinds that a Reader reads from the cache.
func Sources(scheme *runtime.Scheme) []informers.Source {
	template := kube.MetadataOf(capi.InScheme(scheme, capi.VSphereMachineTemplateKind))
	return []informers.Source{
		{Object: template}, {Object: &capi.Cluster{}},
		{Object: &capi.VSphereDeploymentZone{}}, {Object: &capi.VSphereFailureDomain{}},
	}
}
