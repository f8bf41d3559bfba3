package procedure

import (
	"context"
	"fmt"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Rights are those that the steps need, in all namespaces.
type Rights map[authorizationv1.ResourceAttributes]bool

// Need adds the right to do something with an object.
func (r Rights) Need(c client.Client, verb string, object client.Object) error {
	gvk, err := c.GroupVersionKindFor(object)
	if err != nil {
		return err
	}
	mapping, err := c.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", gvk.GroupKind(), err)
	}
	r[authorizationv1.ResourceAttributes{Verb: verb, Group: gvk.Group, Resource: mapping.Resource.Resource}] = true
	return nil
}

// NeedPatch adds the right to patch a resource.
func (r Rights) NeedPatch(group, resource string) {
	r[authorizationv1.ResourceAttributes{Verb: "patch", Group: group, Resource: resource}] = true
}

// Missing is a stop for those that who asks does not have, nil if there are none. What is
// needed to read has been read by then.
func (r Rights) Missing(ctx context.Context, c client.Client) (*Stop, error) {
	var missing []string
	for attributes := range r {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes}}
		if err := c.Create(ctx, review); err != nil {
			return nil, fmt.Errorf("asking what you may: %w", err)
		}
		if !review.Status.Allowed {
			resource := schema.GroupResource{Group: attributes.Group, Resource: attributes.Resource}
			missing = append(missing, fmt.Sprintf("%s %s in all namespaces", attributes.Verb, resource))
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	slices.Sort(missing)
	return &Stop{What: "you may not", Because: missing, Next: "ask somebody who may; it would stop half-way"}, nil
}
