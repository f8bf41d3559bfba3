package removal

import (
	"context"
	"fmt"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// missingRights are the rights that the steps need, and that who removes does not have.
// What is needed to read has been read by then.
func (r *Removal) missingRights(ctx context.Context, s *state) ([]string, error) {
	needed := map[authorizationv1.ResourceAttributes]bool{}
	for _, each := range slices.Concat(s.protection, s.webhooks, s.rest) {
		if err := r.need(needed, "delete", each); err != nil {
			return nil, err
		}
	}
	if len(s.deployments) > 0 && !s.isStopped() {
		needed[authorizationv1.ResourceAttributes{Verb: "patch", Group: "apps", Resource: "deployments"}] = true
	}
	if r.Mode == Keep {
		for _, each := range s.finalized() {
			if err := r.need(needed, "patch", each); err != nil {
				return nil, err
			}
		}
	}
	var missing []string
	for attributes := range needed {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes}}
		if err := r.Client.Create(ctx, review); err != nil {
			return nil, fmt.Errorf("asking what you may: %w", err)
		}
		if !review.Status.Allowed {
			resource := schema.GroupResource{Group: attributes.Group, Resource: attributes.Resource}
			missing = append(missing, fmt.Sprintf("%s %s in all namespaces", attributes.Verb, resource))
		}
	}
	slices.Sort(missing)
	return missing, nil
}

func (r *Removal) need(needed map[authorizationv1.ResourceAttributes]bool, verb string, o object) error {
	gvk, err := r.Client.GroupVersionKindFor(o.Object)
	if err != nil {
		return err
	}
	mapping, err := r.Client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", gvk.GroupKind(), err)
	}
	needed[authorizationv1.ResourceAttributes{Verb: verb, Group: gvk.Group, Resource: mapping.Resource.Resource}] = true
	return nil
}
