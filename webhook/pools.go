package webhook

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachinetemplates,verbs=get;list;watch

// wants lists what the machine's eligible devices ask for, each with its pool, and
// warns of what is asked for in vain.
func (h *Handler) wants(ctx context.Context, m *machine.Machine) (wants []ipam.Want, warnings []string, err error) {
	asked, err := h.askers(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	asks, warnings, err := m.Asks(asked)
	if err != nil {
		return nil, nil, err
	}
	for _, ask := range asks {
		want, err := h.want(ctx, m, ask)
		if err != nil {
			return nil, nil, err
		}
		wants = append(wants, want)
	}
	return wants, warnings, nil
}

// want names the pool that an ask means.
func (h *Handler) want(ctx context.Context, m *machine.Machine, ask machine.Ask) (ipam.Want, error) {
	want := ipam.Want{Device: ask.Device, Pool: ask.Pool, AskedBy: ask.By, NoGateway: ask.NoGateway}
	if ask.From != nil {
		if err := h.checkPoolsHere(ctx, m, *ask.From); err != nil {
			return want, err
		}
	}
	return h.Allocator.Resolve(ctx, m.Namespace, want)
}

// askers are the machine and its template; the machine's own metadata wins. Where
// it names a pool for every eligible device, what the cache knows of the template will
// do.
func (h *Handler) askers(ctx context.Context, m *machine.Machine) ([]machine.Asker, error) {
	own := machine.Asker{Object: &m.ObjectMeta, Name: "the VSphereMachine"}
	if m.Annotations[clusterv1.TemplateClonedFromGroupKindAnnotation] != capi.VSphereMachineTemplateKind.String() {
		return []machine.Asker{own}, nil
	}
	name := m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	template, err := h.template(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, own.AnswersFor(m))
	if err != nil {
		return nil, err
	}
	return []machine.Asker{own, {Object: template, Name: fmt.Sprintf("VSphereMachineTemplate %q", name)}}, nil
}

// template reads the metadata of a template, empty if there is none. Where the cache
// has none, or none that asks for a pool, the API server is asked: a template is often
// made in the same breath as its machines. For a machine that names its pools itself,
// one in the cache will do.
func (h *Handler) template(ctx context.Context, key client.ObjectKey, cachedWillDo bool) (*metav1.PartialObjectMetadata, error) {
	found := &metav1.PartialObjectMetadata{}
	for _, reader := range []client.Reader{h.Cache, h.Live} {
		template := kube.MetadataOf(capi.InScheme(h.Scheme, capi.VSphereMachineTemplateKind))
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

// isPaused tells whether the machine's Cluster is paused. A Cluster that does
// not exist is not.
func (h *Handler) isPaused(ctx context.Context, m *machine.Machine) (bool, error) {
	name := m.Labels[clusterv1.ClusterNameLabel]
	if name == "" {
		return false, nil
	}
	cluster := &capi.Cluster{}
	err := h.Cache.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, cluster)
	if kube.IsAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Cluster %s/%s: %w", m.Namespace, name, err)
	}
	return cluster.IsPaused(), nil
}

// whilePaused decides about a machine whose Cluster is paused. CAPI's controllers
// look before they make machines, and not again before each of them: what else
// they make would have no address, and CAPV wait for one for ever. Refused, they
// make it when the Cluster is resumed. A machine without an owner is made by a person,
// who is warned and can wait.
func whilePaused(req admission.Request, m *machine.Machine) verdict {
	owner := m.Owner(req.UserInfo.Username)
	if owner.UID == "" || isDryRun(req) {
		return allow("the machine's Cluster is paused: no address is claimed for it")
	}
	return deny(ipam.Refuse(ipam.ClusterPaused, "Cluster %q is paused, so that %s %q gets no machine now: resume the Cluster",
		m.Labels[clusterv1.ClusterNameLabel], owner.Kind, owner.Name))
}

// Sources are the kinds that admission reads from the cache.
func Sources(scheme *runtime.Scheme) []informers.Source {
	template := kube.MetadataOf(capi.InScheme(scheme, capi.VSphereMachineTemplateKind))
	return []informers.Source{{Object: template}, {Object: &capi.Cluster{}}}
}
