package demand

import (
	"context"
	"fmt"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// PoolNamespaceKey is how the static IP adapters name the namespace of pools: one
// by an annotation on the Cluster, another by a label beside the pool's name.
const PoolNamespaceKey = "cluster.x-k8s.io/ip-pool-namespace"

// checkPoolsHere refuses a label whose pool is, by the rules of the adapter that it
// was written for, in another namespace. A pool of that name in the machine's own
// namespace is not what was asked for: as a rule it is for another network.
func (r *Reader) checkPoolsHere(ctx context.Context, m *machine.Machine, by machine.Asker) error {
	elsewhere := func(what, namespace string) error {
		return ipam.Refuse(ipam.PoolElsewhere, "%s is %q, but addresses are claimed in the machine's own namespace only: "+
			"put the pool into namespace %q and remove that", what, namespace, m.Namespace)
	}
	if namespace := by.GetLabels()[PoolNamespaceKey]; namespace != "" && namespace != m.Namespace {
		return elsewhere(fmt.Sprintf("label %s of %s", PoolNamespaceKey, by.Name), namespace)
	}
	name := m.Labels[clusterv1.ClusterNameLabel]
	if name == "" {
		return nil
	}
	cluster := &capi.Cluster{}
	err := r.Cache.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, cluster, client.UnsafeDisableDeepCopy)
	if err != nil {
		if kube.IsAbsent(err) {
			return nil
		}
		return fmt.Errorf("reading Cluster %s/%s: %w", m.Namespace, name, err)
	}
	if namespace := cluster.Annotations[PoolNamespaceKey]; namespace != "" && namespace != m.Namespace {
		return elsewhere(fmt.Sprintf("annotation %s of Cluster %q", PoolNamespaceKey, name), namespace)
	}
	return nil
}
