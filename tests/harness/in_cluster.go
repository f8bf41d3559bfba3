package harness

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
)

const (
	// InClusterPoolKind is the kind of a pool for one namespace.
	InClusterPoolKind = "InClusterIPPool"
	// GlobalInClusterPoolKind is the kind of a pool for all namespaces.
	GlobalInClusterPoolKind = "GlobalInClusterIPPool"
	// DefaultInClusterPool has a name of its own: metal3 serves an
	// IPAddressClaim if one of its pools has the name that the claim asks for,
	// whatever the kind.
	DefaultInClusterPool = "dkp-in-cluster"

	// inClusterVersion is the version of both kinds that is written here.
	inClusterVersion = "v1alpha2"
)

// InCluster is the real in-cluster IPAM provider. Stop and Start work as on any
// process; while it is stopped, claims wait, and its webhooks refuse pools.
type InCluster struct{ *Provider }

// StartInCluster starts the manager of the in-cluster provider under the rights
// that its own manifests grant, and installs its webhooks.
func (c *ControlPlane) StartInCluster(ctx context.Context) (*InCluster, error) {
	started, err := c.startWithoutWebhooks(ctx, inClusterIPAM, "--leader-elect=false")
	if err != nil {
		return nil, err
	}
	started.probe = InClusterPool(metav1.NamespaceDefault, InClusterNamed("probe"))
	return &InCluster{started}, started.InstallWebhooks(ctx)
}

// InClusterOption changes a pool of either kind that a test is about to create.
type InClusterOption func(*unstructured.Unstructured)

// InClusterPool is a pool of the in-cluster provider for one namespace: six
// addresses of 10.16.57.0/24, with a gateway.
func InClusterPool(namespace string, options ...InClusterOption) *unstructured.Unstructured {
	pool := inClusterPool(InClusterPoolKind, options)
	pool.SetNamespace(namespace)
	return pool
}

// GlobalInClusterPool is such a pool for all namespaces. It has none itself, so
// every test needs a name and a range of its own.
func GlobalInClusterPool(name string, options ...InClusterOption) *unstructured.Unstructured {
	return inClusterPool(GlobalInClusterPoolKind, append([]InClusterOption{InClusterNamed(name)}, options...))
}

func inClusterPool(kind string, options []InClusterOption) *unstructured.Unstructured {
	pool := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": capiipamv1.GroupVersion.Group + "/" + inClusterVersion,
		"kind":       kind,
		"metadata":   map[string]any{"name": DefaultInClusterPool},
		"spec": map[string]any{
			"addresses": []any{"10.16.57.88-10.16.57.93"},
			"prefix":    int64(24),
			"gateway":   "10.16.57.1",
		},
	}}
	for _, option := range options {
		option(pool)
	}
	return pool
}

// InClusterNamed gives the pool another name.
func InClusterNamed(name string) InClusterOption {
	return func(pool *unstructured.Unstructured) { pool.SetName(name) }
}

// InClusterAddresses makes the pool consist of these addresses, ranges
// ("10.0.0.1-10.0.0.9") and networks ("10.0.0.0/24").
func InClusterAddresses(addresses ...string) InClusterOption {
	list := make([]any, 0, len(addresses))
	for _, address := range addresses {
		list = append(list, address)
	}
	return InClusterField(list, "addresses")
}

// InClusterField sets a field of the pool's spec, as in
// InClusterField(int64(64), "prefix"); nil removes it.
func InClusterField(value any, path ...string) InClusterOption {
	return func(pool *unstructured.Unstructured) {
		path := append([]string{"spec"}, path...)
		if value == nil {
			unstructured.RemoveNestedField(pool.Object, path...)
			return
		}
		if err := unstructured.SetNestedField(pool.Object, value, path...); err != nil {
			panic(err)
		}
	}
}

// InClusterWith changes the pool by an option that is for all objects, as in
// InClusterWith(WithAnnotation(key, value)).
func InClusterWith(option Option) InClusterOption {
	return func(pool *unstructured.Unstructured) { option(pool) }
}

// AddressClaim is a request for an address of a pool of that kind, of the group
// of the Cluster API IPAM contract, as somebody other than us makes it.
func AddressClaim(namespace, name, kind, pool string, options ...Option) *capiipamv1.IPAddressClaim {
	claim := &capiipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	claim.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: capiipamv1.GroupVersion.Group, Kind: kind, Name: pool}
	return with(claim, options)
}

// WithClaimCluster says which Cluster a claim is for. The in-cluster provider
// does not serve it while that Cluster is paused or missing.
func WithClaimCluster(name string) Option {
	return func(object client.Object) {
		WithLabel(clusterv1.ClusterNameLabel, name)(object)
		if claim, ok := object.(*capiipamv1.IPAddressClaim); ok {
			claim.Spec.ClusterName = name
		}
	}
}
