package retry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

// settleAfter is for how long an owner must not have been refused after it was made to
// try, until it counts as helped: CAPI needs a while, and that something behind the
// webhook refuses shows after 5 s.
const settleAfter = 10 * time.Second

// settle takes the condition off the owners of a namespace that were made to try again and
// have not been refused since. If it went with the touch it would come and go with
// each try, and each time CAPI would try once more. It returns when to look again.
func (r *reconciler) settle(ctx context.Context, namespace string) (wait time.Duration, err error) {
	owners, err := r.owners(ctx, namespace, triedAgain)
	if err != nil {
		return 0, err
	}
	var errs []error
	for i := range owners {
		until := r.untilSettled(&owners[i])
		if until <= 0 {
			errs = append(errs, r.calm(ctx, &owners[i]))
			continue
		}
		if wait == 0 || until < wait {
			wait = until
		}
	}
	return wait, errors.Join(errs...)
}

// untilSettled is how long there is to wait yet. A time that is illegible, or yet to
// come, is not ours.
func (r *reconciler) untilSettled(owner *metav1.PartialObjectMetadata) time.Duration {
	tried, err := time.Parse(time.RFC3339, owner.Annotations[ipam.TriedAgainAnnotation])
	until := tried.Add(settleAfter).Sub(r.now())
	if err != nil || until > settleAfter {
		return 0
	}
	return until
}

// calm takes the condition off, and then the mark of the touch: what has no mark is not
// looked at again. If the owner was refused in between, it has another mark, and this
// fails.
func (r *reconciler) calm(ctx context.Context, owner *metav1.PartialObjectMetadata) error {
	if err := dropCondition(ctx, r.client, owner); err != nil {
		return err
	}
	const path = "/metadata/annotations/capv-static-ip.dev~1tried-again"
	steps, err := json.Marshal([]map[string]string{
		{"op": "test", "path": path, "value": owner.Annotations[ipam.TriedAgainAnnotation]},
		{"op": "remove", "path": path},
	})
	if err != nil {
		return fmt.Errorf("making a patch: %w", err)
	}
	err = r.client.Patch(ctx, owner.DeepCopy(), client.RawPatch(types.JSONPatchType, steps))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
		return fmt.Errorf("taking the mark of a touch off %s %s: %w", owner.Kind, klog.KObj(owner), err)
	}
	return nil
}
