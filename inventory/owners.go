package inventory

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

func (s Source) owners(ctx context.Context, g *Graph) {
	for _, kind := range retry.OwnerKinds() {
		s.list(ctx, g, kube.MetadataOf(capi.InScheme(s.Client.Scheme(), kind)), func(object client.Object) {
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
