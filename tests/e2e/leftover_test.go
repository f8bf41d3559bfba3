package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// Cluster API makes a VSphereMachine in two steps. Where the second one fails, 1.13 forgets
// it, and makes another one with the next try. We have no part in that: it is so, too, of
// machines that never come to us.
func TestMachineThatClusterAPILeavesBehind(t *testing.T) {
	t.Run("asks for nothing", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		allow := s.refuseSecondStep()
		template := s.template("workers", harness.WithDevices(harness.DHCPDevice()))
		workers := s.workers(template, "md-0", 1)

		s.create(template, workers)

		left := s.leftBehind(2)
		allow()
		s.delete(workers)
		for i := range left {
			s.gone(&left[i], provisioned)
		}
	})
	t.Run("gives its address back when it is deleted", func(t *testing.T) {
		harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
			s := newScene(t, shared)
			allow := s.refuseSecondStep()
			template := s.template("workers", provider.Ask("pool"))
			workers := s.workers(template, "md-0", 1)
			s.create(s.pool(provider, "pool", 88, 88), template, workers)
			left := s.leftBehind(1)
			if got, want := harness.Addresses(&left[0]), s.addresses(88, 88); !slices.Equal(got, want) {
				t.Fatalf("it has %v, want %v", got, want)
			}
			allow()

			s.delete(&left[0])

			for _, node := range s.nodes(workers) {
				if node.Machine.Name == left[0].Name {
					t.Error("it has become a node")
				}
			}
		})
	})
}

// refuseSecondStep has the API server refuse every change of a VSphereMachine that a
// MachineSet owns and no Machine does, until the function that it returns is called.
func (s *scene) refuseSecondStep() (allow func()) {
	s.Helper()
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	policy.Spec.Validations = []admissionv1.Validation{{
		Expression: "has(object.metadata.deletionTimestamp) || !has(object.metadata.ownerReferences) || object.metadata.ownerReferences.all(o, o.kind != 'MachineSet')",
		Message:    "refused by the test",
	}}
	policy.Spec.MatchConstraints = &admissionv1.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: s.ns}},
		ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{capvv1.GroupName}, APIVersions: []string{"*"}, Resources: []string{"vspheremachines"}},
		}}},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	binding.Spec.PolicyName = policy.Name
	binding.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Deny}
	s.create(policy, binding)
	s.Cleanup(func() {
		for _, object := range []client.Object{binding, policy} {
			if err := client.IgnoreNotFound(s.stack.Plane.Client.Delete(context.Background(), object)); err != nil {
				s.Error(err)
			}
		}
	})
	probe := harness.Machine(s.ns, "probe", harness.WithDevices(harness.DHCPDevice()))
	s.create(probe)
	s.eventually(harness.Soon, "the policy to be in force", func(ctx context.Context) error {
		if s.ownProbe(ctx, probe) == nil {
			return errors.New("it let a change pass")
		}
		return nil
	})
	return func() {
		s.delete(binding)
		s.eventually(harness.Soon, "the policy to be forgotten", func(ctx context.Context) error { return s.ownProbe(ctx, probe) })
		s.delete(probe)
	}
}

// ownProbe tries, in a dry run, to have a MachineSet own a machine.
func (s *scene) ownProbe(ctx context.Context, probe *capvv1.VSphereMachine) error {
	owned := probe.DeepCopy()
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "MachineSet", Name: "probe", UID: "probe"}}
	return s.stack.Plane.Client.Patch(ctx, owned, client.MergeFrom(probe), client.DryRunAll)
}

// leftBehind waits until there are so many machines of a MachineSet, at least, that no
// Machine owns, and returns them.
func (s *scene) leftBehind(count int) []capvv1.VSphereMachine {
	s.Helper()
	var left []capvv1.VSphereMachine
	s.eventually(provisioned, "machines to be left behind", func(ctx context.Context) error {
		machines := &capvv1.VSphereMachineList{}
		if err := s.stack.Plane.Client.List(ctx, machines, client.InNamespace(s.ns)); err != nil {
			return err
		}
		left = slices.DeleteFunc(machines.Items, func(m capvv1.VSphereMachine) bool {
			return len(m.OwnerReferences) != 1 || m.OwnerReferences[0].Kind != "MachineSet"
		})
		if len(left) < count {
			return fmt.Errorf("there are %d", len(left))
		}
		return nil
	})
	s.step("%d machines are left behind", len(left))
	return left
}
