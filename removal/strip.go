package removal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// strip takes our finalizers off, in rounds, because objects may change meanwhile. It stops
// before what is being deleted: without our finalizer, its address would be free.
func (r *Removal) strip(ctx context.Context) error {
	const rounds = 5
	for range rounds {
		s, err := r.read(ctx)
		if err != nil {
			return err
		}
		if !s.isStopped() || len(s.pods) > 0 {
			return &Stop{What: "somebody has started the manager again", Because: s.running(), Next: "find out who, then run this again"}
		}
		if between := s.between(); len(between) > 0 {
			return &Stop{What: "these were deleted meanwhile", Because: between, Next: s.startAgain()}
		}
		changed, err := r.stripOnce(ctx, s)
		if err != nil || !changed {
			return err
		}
	}
	return errors.New("objects change all the time: run this again")
}

// stripOnce tells whether something has changed meanwhile, so that it has to be looked at
// again.
func (r *Removal) stripOnce(ctx context.Context, s *state) (changed bool, err error) {
	for _, each := range s.finalized() {
		switch err := r.dropFinalizers(ctx, each); {
		case apierrors.IsConflict(err):
			changed = true
		case client.IgnoreNotFound(err) != nil:
			return false, fmt.Errorf("taking our finalizer off %s: %w", each, err)
		}
	}
	return changed, nil
}

// dropFinalizers is refused with a conflict if the object is not the one that was read,
// or not as it was.
func (r *Removal) dropFinalizers(ctx context.Context, o object) error {
	left := slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(finalizer string) bool {
		return finalizer == ipam.InUseFinalizer || finalizer == ipam.ReleaseFinalizer
	})
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": o.GetUID(), "resourceVersion": o.GetResourceVersion(), "finalizers": left,
	}})
	if err != nil {
		return err
	}
	return r.Client.Patch(ctx, o.DeepCopyObject().(client.Object), client.RawPatch(types.MergePatchType, patch))
}
