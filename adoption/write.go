package adoption

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/kube"
)

// makeWay deletes the claims of endpoints that were never written. Nothing has their
// addresses; the manager claims anew, under the same name.
func (a *Adoption) makeWay(ctx context.Context, s *state) error {
	for _, c := range s.judged(unwritten) {
		err := kube.DeleteAsRead(ctx, a.Client, c.Object)
		if apierrors.IsConflict(err) {
			// It is looked at again.
			continue
		}
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s: %w", c, err)
		}
	}
	return nil
}

// nameOwners names the owners of claims in a version that is served, in rounds, because
// objects may change meanwhile.
func (a *Adoption) nameOwners(ctx context.Context) error {
	const rounds = 5
	for range rounds {
		s, err := a.readStopped(ctx)
		if err != nil {
			return err
		}
		again := false
		for _, c := range s.stale() {
			err := a.nameOwner(ctx, c)
			if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
				return fmt.Errorf("naming the owner of %s: %w", c, err)
			}
			again = again || err != nil
		}
		if !again {
			return nil
		}
	}
	return errors.New("objects change all the time: run this again")
}

// nameOwner writes the version of one reference, and nothing else of it: it leads to the same
// object.
func (a *Adoption) nameOwner(ctx context.Context, c claim) error {
	before := c.DeepCopyObject().(client.Object)
	owners := c.GetOwnerReferences()
	for i := range owners {
		if owners[i].UID == c.owner.UID {
			kind := schema.FromAPIVersionAndKind(owners[i].APIVersion, owners[i].Kind).GroupKind()
			owners[i].APIVersion = capi.InScheme(a.Client.Scheme(), kind).GroupVersion().String()
		}
	}
	c.SetOwnerReferences(owners)
	return kube.PatchAsRead(ctx, a.Client, c.Object, before)
}
