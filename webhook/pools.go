package webhook

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachinetemplates,verbs=get;list;watch

// PoolNameLabel on a machine, or on the template it was cloned from, names the
// pool of all its eligible devices: the metal3 IPPool of that name in the
// machine's namespace.
const PoolNameLabel = "cluster.x-k8s.io/ip-pool-name"

var templateKind = infrav1.GroupVersion.WithKind("VSphereMachineTemplate")

// wants lists what the machine's eligible devices ask for.
func (h *Handler) wants(ctx context.Context, m *machine) ([]allocator.Want, error) {
	var devices []allocator.Device
	for i, d := range m.Spec.Network.Devices {
		if eligible(d) {
			devices = append(devices, deviceOf(d, i))
		}
	}
	if len(devices) == 0 {
		return nil, nil
	}
	pool, askedBy, err := h.poolName(ctx, m)
	if err != nil || pool == "" {
		return nil, err
	}
	wants := make([]allocator.Want, len(devices))
	for i, d := range devices {
		wants[i] = allocator.Want{Device: d, Pool: allocator.Metal3Pool(pool), AskedBy: askedBy}
	}
	return wants, nil
}

// poolName is the pool that the machine names, or else its template; and who
// named it. It is empty if neither does.
func (h *Handler) poolName(ctx context.Context, m *machine) (pool, askedBy string, err error) {
	if pool := m.Labels[PoolNameLabel]; pool != "" {
		return pool, fmt.Sprintf("label %s of the VSphereMachine", PoolNameLabel), nil
	}
	if m.Annotations[clusterv1.TemplateClonedFromGroupKindAnnotation] != templateKind.GroupKind().String() {
		return "", "", nil
	}
	name := m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	template, err := h.template(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name})
	if err != nil {
		return "", "", err
	}
	return template.Labels[PoolNameLabel], fmt.Sprintf("label %s of VSphereMachineTemplate %q", PoolNameLabel, name), nil
}

// template reads the metadata of a template, empty if there is none. Where the
// cache knows no pool of it the API server is asked: a template is often made
// in the same breath as its machines.
func (h *Handler) template(ctx context.Context, key client.ObjectKey) (*metav1.PartialObjectMetadata, error) {
	for _, reader := range []client.Reader{h.Cache, h.Live} {
		template := &metav1.PartialObjectMetadata{}
		template.SetGroupVersionKind(templateKind)
		err := reader.Get(ctx, key, template)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading VSphereMachineTemplate %s: %w", key, err)
		}
		if template.Labels[PoolNameLabel] != "" {
			return template, nil
		}
	}
	return &metav1.PartialObjectMetadata{}, nil
}

// isPaused tells whether the machine's Cluster is paused. A Cluster that does
// not exist is not.
func (h *Handler) isPaused(ctx context.Context, m *machine) (bool, error) {
	name := m.Labels[clusterv1.ClusterNameLabel]
	if name == "" {
		return false, nil
	}
	cluster := &clusterv1.Cluster{}
	err := h.Cache.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, cluster)
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Cluster %s/%s: %w", m.Namespace, name, err)
	}
	return cluster.Spec.Paused != nil && *cluster.Spec.Paused, nil
}

// Sources are the kinds that admission reads from the cache.
func Sources() []allocator.Source {
	template := &metav1.PartialObjectMetadata{}
	template.SetGroupVersionKind(templateKind)
	return []allocator.Source{{Object: template}, {Object: &clusterv1.Cluster{}}}
}
