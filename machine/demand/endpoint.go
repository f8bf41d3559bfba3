package demand

import (
	"context"
	"fmt"
	"slices"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/machine"
)

// Endpoint is what a VSphereCluster asks for its endpoint, nil if for nothing, and its
// Cluster, nil if that does not exist.
func (r *Reader) Endpoint(ctx context.Context, c *machine.VSphereCluster) (*ipam.Ask, *capi.Cluster, error) {
	cluster, err := r.clusterOf(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	ask, err := c.EndpointAsk(cluster)
	if err != nil || ask == nil {
		return nil, cluster, err
	}
	if ask.From != nil {
		// What the adapters have to say of pools elsewhere is found by the Cluster's label.
		labelled := &machine.Machine{ObjectMeta: c.ObjectMeta}
		if cluster != nil {
			labelled.Labels = map[string]string{clusterv1.ClusterNameLabel: cluster.Name}
		}
		if err := r.checkPoolsHere(ctx, labelled, *ask.From); err != nil {
			return nil, nil, err
		}
	}
	return &ask.Ask, cluster, nil
}

// clusterOf is the Cluster of a VSphereCluster: by the label that Cluster API puts on it, or
// by the Cluster's own word, where both were applied by hand. The API server is asked:
// both are often made in the same breath, and what is claimed cannot be changed later.
func (r *Reader) clusterOf(ctx context.Context, c *machine.VSphereCluster) (*capi.Cluster, error) {
	if name := c.Labels[clusterv1.ClusterNameLabel]; name != "" {
		cluster := &capi.Cluster{}
		err := r.Live.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, cluster)
		if kube.IsAbsent(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading Cluster %s/%s: %w", c.Namespace, name, err)
		}
		return cluster, nil
	}
	clusters := &capi.ClusterList{}
	if err := r.Live.List(ctx, clusters, client.InNamespace(c.Namespace)); err != nil && !kube.IsAbsent(err) {
		return nil, fmt.Errorf("looking for the Cluster of VSphereCluster %s/%s: %w", c.Namespace, c.Name, err)
	}
	i := slices.IndexFunc(clusters.Items, func(cluster capi.Cluster) bool { return cluster.IsOn(c.Name) })
	if i < 0 {
		return nil, nil
	}
	return &clusters.Items[i], nil
}
