package retry

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/allocator/recorder"
)

// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=machinesets/status,verbs=patch
// +kubebuilder:rbac:groups=controlplane.cluster.x-k8s.io,resources=kubeadmcontrolplanes/status,verbs=patch

// fieldOwner owns the condition, and nothing else of a status.
const fieldOwner = "capv-static-ip"

// unstored is the text of the condition where something after the webhook refuses.
const unstored = "a machine was given addresses and then refused by something after this webhook: " +
	"the events of its owner say by what"

// putCondition writes on an owner that a machine of it was refused. It is for people
// only, so that it keeps nothing up where we may not write it. It is applied and not
// patched: CAPI has conditions of its own in the list, and writes them all the time.
func putCondition(ctx context.Context, c client.Client, owner *unstructured.Unstructured, refusal *ipam.Refusal) error {
	condition := map[string]any{
		"type": ipam.AddressesAvailableCondition, "status": string(metav1.ConditionFalse),
		"reason": string(ipam.MachineNotStored), "message": unstored,
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	}
	if refusal != nil {
		condition["reason"], condition["message"] = string(refusal.Reason), recorder.Shortened(refusal.Message)
	}
	if before := conditionOf(owner); before["status"] == condition["status"] {
		condition["lastTransitionTime"] = before["lastTransitionTime"]
		if before["reason"] == condition["reason"] && before["message"] == condition["message"] {
			return nil
		}
	}
	return applyConditions(ctx, c, owner, owner.GroupVersionKind(), condition)
}

// dropCondition takes the condition off, if it is there.
func dropCondition(ctx context.Context, c client.Client, owner *metav1.PartialObjectMetadata) error {
	return applyConditions(ctx, c, owner, owner.GroupVersionKind())
}

// applyConditions makes these the only conditions of ours on an owner.
func applyConditions(ctx context.Context, c client.Client, owner client.Object, gvk schema.GroupVersionKind, all ...any) error {
	applied := &unstructured.Unstructured{}
	applied.SetGroupVersionKind(gvk)
	applied.SetNamespace(owner.GetNamespace())
	applied.SetName(owner.GetName())
	if len(all) > 0 {
		if err := unstructured.SetNestedSlice(applied.Object, all, conditionsIn(gvk.Version)...); err != nil {
			return fmt.Errorf("making a condition: %w", err)
		}
	}
	err := c.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(applied), client.FieldOwner(fieldOwner), client.ForceOwnership)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err):
		klog.FromContext(ctx).Error(err, "Cannot write the condition of an owner", "kind", gvk.Kind, "owner", klog.KObj(owner))
		return nil
	case err != nil && !kube.IsAbsent(err):
		return fmt.Errorf("writing the condition of %s %s: %w", gvk.Kind, klog.KObj(owner), err)
	}
	return nil
}

// conditionsIn is where CAPI has those conditions that are like everybody's. In
// v1beta1 its own are in the place of these.
func conditionsIn(version string) []string {
	if version == "v1beta1" {
		return []string{"status", "v1beta2", "conditions"}
	}
	return []string{"status", "conditions"}
}

// conditionOf is our condition of an owner as it was read, nil if there is none.
func conditionOf(owner *unstructured.Unstructured) map[string]any {
	conditions, _, _ := unstructured.NestedSlice(owner.Object, conditionsIn(owner.GroupVersionKind().Version)...)
	for _, condition := range conditions {
		if fields, ok := condition.(map[string]any); ok && fields["type"] == ipam.AddressesAvailableCondition {
			return fields
		}
	}
	return nil
}
