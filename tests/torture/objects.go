package main

import (
	"context"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

// mendTimeout is how long it may take to take back what was changed, while other things
// are broken as well.
const mendTimeout = 3 * time.Minute

// The kinds of claims and addresses, of each provider.
var (
	claimKinds   = []schema.GroupVersionKind{ipamv1.GroupVersion.WithKind("IPClaim"), capiipamv1.GroupVersion.WithKind("IPAddressClaim")}
	addressKinds = []schema.GroupVersionKind{ipamv1.GroupVersion.WithKind("IPAddress"), capiipamv1.GroupVersion.WithKind("IPAddress")}
)

// objectFaults are what people do to objects that others rely on.
func objectFaults() []fault {
	return []fault{
		{"delete-claim", 5, false, deleteOne(claimKinds...)},
		{"delete-address", 5, false, deleteOne(addressKinds...)},
		{"pause-cluster", 2, false, pauseCluster},
		{"freeze", 2, false, freeze},
		{"refuse-machines", 2, false, refuseMachines},
		{"renew-certificate", 2, false, renewCertificate},
		{history.DeletePool, 1, false, deletePool},
		{history.DeleteNamespace, 1, false, deleteNamespace},
	}
}

// list lists what there is of a kind in a namespace.
func (t *trial) list(ctx context.Context, kind schema.GroupVersionKind, ns string) ([]metav1.PartialObjectMetadata, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(kind)
	err := t.stack.Plane.Client.List(ctx, list, client.InNamespace(ns))
	return list.Items, err
}

// deleteOne deletes an object of one of the kinds, as kubectl does: its finalizers stay.
func deleteOne(kinds ...schema.GroupVersionKind) act {
	return func(ctx context.Context, n *nemesis) (string, func() error) {
		a, kind := n.anyArena(), one(n.rand, kinds)
		ctx, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		found, err := n.list(ctx, kind, a.ns)
		if err != nil || len(found) == 0 {
			return "", nil
		}
		victim := &found[n.rand.IntN(len(found))]
		victim.SetGroupVersionKind(kind)
		return fmt.Sprintf("%s %s/%s", kind.Kind, a.ns, victim.Name), func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
			defer cancel()
			return client.IgnoreNotFound(n.stack.Plane.Client.Delete(ctx, victim))
		}
	}
}

// mend does something until it succeeds.
func (t *trial) mend(ctx context.Context, what string, act func(context.Context) error) error {
	return harness.Eventually(context.WithoutCancel(ctx), mendTimeout, what, act)
}

func pauseCluster(ctx context.Context, n *nemesis) (string, func() error) {
	a, d := n.anyArena(), n.some(time.Second, 15*time.Second)
	set := func(paused string) func(context.Context) error {
		return func(ctx context.Context) error {
			cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: a.ns, Name: harness.DefaultCluster}}
			return n.stack.Plane.Client.Patch(ctx, cluster, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"paused":`+paused+`}}`)))
		}
	}
	return during(a.ns, d), func() error {
		if err := n.mend(ctx, "the Cluster to be paused", set("true")); err != nil {
			return err
		}
		wait(ctx, d)
		return n.mend(ctx, "the Cluster to be resumed", set("null"))
	}
}

// refuseMachines has a policy refuse about a third of all machines, after we have given
// them addresses.
func refuseMachines(ctx context.Context, n *nemesis) (string, func() error) {
	const name = "torture"
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	policy.Spec.MatchConstraints = &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
		RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{capvv1.GroupName}, APIVersions: []string{"*"}, Resources: []string{"vspheremachines"}},
		},
	}}}
	policy.Spec.Validations = []admissionv1.Validation{{Expression: "object.metadata.namespace == '" + history.MovedNamespace + "' || !object.metadata.name.matches('[1478dlqt]$')", Message: "tortured"}}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}
	binding.Spec.PolicyName = name
	binding.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Deny}
	d := n.some(3*time.Second, 20*time.Second)
	return during("all", d), func() error {
		ignore := client.IgnoreAlreadyExists
		for _, object := range []client.Object{policy, binding} {
			err := n.mend(ctx, "the policy to be made", func(ctx context.Context) error { return ignore(n.stack.Plane.Client.Create(ctx, object)) })
			if err != nil {
				return err
			}
		}
		wait(ctx, d)
		for _, object := range []client.Object{binding, policy} {
			err := n.mend(ctx, "the policy to go", func(ctx context.Context) error {
				return client.IgnoreNotFound(n.stack.Plane.Client.Delete(ctx, object))
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// renewCertificate has cert-manager issue the serving certificate anew, as its own command
// does it.
func renewCertificate(ctx context.Context, n *nemesis) (string, func() error) {
	return harness.ServingCertificate, func() error {
		return n.mend(ctx, "the certificate to be renewed", func(ctx context.Context) error {
			certificate := &unstructured.Unstructured{}
			certificate.SetGroupVersionKind(schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"})
			key := client.ObjectKey{Namespace: harness.SystemNamespace, Name: harness.ServingCertificate}
			if err := n.stack.Plane.Client.Get(ctx, key, certificate); err != nil {
				return err
			}
			conditions, _, err := unstructured.NestedSlice(certificate.Object, "status", "conditions")
			if err != nil {
				return err
			}
			conditions = append(conditions, map[string]any{
				"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "tortured",
				"lastTransitionTime": time.Now().UTC().Format(time.RFC3339), "observedGeneration": certificate.GetGeneration(),
			})
			if err := unstructured.SetNestedSlice(certificate.Object, conditions, "status", "conditions"); err != nil {
				return err
			}
			return n.stack.Plane.Client.Status().Update(ctx, certificate)
		})
	}
}
