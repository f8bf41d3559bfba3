package inventory

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/retry"
)

// Owner is an owner of machines that were refused.
type Owner struct {
	Kind string
	*metav1.PartialObjectMetadata
	Shortages retry.Shortages
}

// makers are what decides about workloads from above, and what was made by them.
type makers struct {
	clusters map[types.NamespacedName]*capi.Cluster
	// zones and overlays are the failure domains, by their names.
	zones    map[string]*capi.VSphereDeploymentZone
	overlays map[string]*capi.VSphereFailureDomain
	// deployments are the names of MachineDeployments, by the UIDs of their MachineSets.
	deployments map[types.UID]string
	// machines are those that Cluster API's labels say were made for a workload.
	machines map[maker][]*Machine
	// kept are claims with an address and without a machine, which the next machine of
	// their owner gets.
	kept []keptClaim
}

// maker is a MachineDeployment or a control plane, or the Cluster of a control plane.
type maker struct{ kind, namespace, name string }

// keptClaim is a claim of a pool.
type keptClaim struct {
	ipam.Claim
	pool *Pool
}

// Needs is how many addresses of a pool the owner waits for.
func (owner *Owner) Needs(pool ipam.PoolReference) uint64 {
	return owner.Shortages[retry.Obstacle{Pool: pool}]
}

func newMakers() makers {
	return makers{
		clusters: map[types.NamespacedName]*capi.Cluster{}, deployments: map[types.UID]string{},
		zones: map[string]*capi.VSphereDeploymentZone{}, overlays: map[string]*capi.VSphereFailureDomain{}, machines: map[maker][]*Machine{},
	}
}

func (s Source) owners(ctx context.Context, g *Graph) {
	for _, kind := range retry.OwnerKinds() {
		s.list(ctx, g, kube.MetadataOf(capi.InScheme(s.Client.Scheme(), kind)), func(object client.Object) {
			if name := object.GetLabels()[clusterv1.MachineDeploymentNameLabel]; kind == capi.MachineSetKind && name != "" {
				g.makers.deployments[object.GetUID()] = name
			}
			text := object.GetAnnotations()[ipam.RefusedByAnnotation]
			if text == "" {
				return
			}
			g.Owners = append(g.Owners, &Owner{
				Kind: kind.Kind, PartialObjectMetadata: object.(*metav1.PartialObjectMetadata), Shortages: retry.ParseShortages(text),
			})
		})
	}
}

// WaitingFor are the owners that wait for a pool.
func (g *Graph) WaitingFor(key PoolKey) []*Owner {
	var owners []*Owner
	for _, owner := range g.Owners {
		if key.Namespace != "" && owner.Namespace != key.Namespace {
			continue
		}
		if _, waits := owner.Shortages[retry.Obstacle{Pool: key.PoolReference}]; waits {
			owners = append(owners, owner)
		}
	}
	return owners
}
