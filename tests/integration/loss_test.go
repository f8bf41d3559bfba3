package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// rejectedLabel marks the machines that a policy rejects after our webhook has
// admitted them.
const rejectedLabel = "test.capv-static-ip.dev/rejected"

func TestClaimOfAMachineThatWasRejectedLaterIsReaped(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		s.create(s.asks(f, "alive"))
		s.settled("alive")
		s.rejectMarkedMachines()
		rejected := harness.WithLabel(rejectedLabel, "")
		uids := map[string]types.UID{}
		for _, name := range []string{"lost", "retried"} {
			s.refused(s.asks(f, name, rejected), "rejected by the test")
			claim, err := s.claim(name)
			if err != nil {
				t.Fatalf("the claim of a machine that was rejected later: %v", err)
			}
			uids[name] = claim.GetUID()
		}

		lost, err := s.claim("lost")
		if err != nil {
			t.Fatal(err)
		}
		ip := s.bind(lost).IP

		// CAPI's retries keep the one claim in use; nobody asks for the other again.
		var retried time.Time
		s.reapedInItsTime("lost", func() {
			if time.Since(retried) > gracePeriod/6 {
				s.refused(s.asks(f, "retried", rejected), "rejected by the test")
				retried = time.Now()
			}
		})

		claim, err := s.claim("retried")
		if err != nil {
			t.Fatalf("the claim that is in use: %v", err)
		}
		if claim.GetUID() != uids["retried"] {
			t.Errorf("the claim that is in use was recreated")
		}
		if err := s.isHeld("alive", s.ip("alive")); err != nil {
			t.Errorf("the claim of a living machine: %v", err)
		}
		// Without the label the retry succeeds, with the claim of the first try.
		s.returned(ip)
		s.create(s.asks(f, "retried"))
		s.settled("retried")
		if claim, err := s.claim("retried"); err != nil || claim.GetUID() != uids["retried"] {
			t.Errorf("the machine holds claim %s (error %v), want that of the first try, %s", claim.GetUID(), err, uids["retried"])
		}
	})
}

// rejectMarkedMachines makes the API server reject machines with rejectedLabel
// in this namespace, after all mutating webhooks.
func (s *scene) rejectMarkedMachines() {
	s.Helper()
	s.rejectAfterUs("!has(object.metadata.labels) || !('"+rejectedLabel+"' in object.metadata.labels)", "rejected by the test")
}

// rejectAfterUs makes the API server reject machines of the scene for which an
// expression is false, when all webhooks have been asked that change them. It is so
// of machines with rejectedLabel.
func (s *scene) rejectAfterUs(expression, message string) {
	s.Helper()
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	policy.Spec.Validations = []admissionv1.Validation{{Expression: expression, Message: message}}
	policy.Spec.MatchConstraints = &admissionv1.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: s.ns}},
		ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule: admissionv1.Rule{
				APIGroups: []string{capvv1.GroupName}, APIVersions: []string{"*"}, Resources: []string{"vspheremachines"},
			},
		}}},
	}
	s.createGlobal(policy, policyBinding(s.ns))
	s.eventually("the policy to be in force", func(ctx context.Context) error {
		probe := harness.Machine(s.ns, "probe", harness.WithDevices(harness.DHCPDevice()), harness.WithLabel(rejectedLabel, ""))
		if err := s.env.Client.Create(ctx, probe, client.DryRunAll); err == nil {
			return errors.New("it let a machine pass")
		}
		return nil
	})
}

func policyBinding(name string) client.Object {
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}
	binding.Spec.PolicyName = name
	binding.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Deny}
	return binding
}
