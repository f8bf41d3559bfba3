package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

const (
	// punctual is how long after its grace period a claim without a machine may be
	// there on a busy computer; a change waits a second for others to come with it.
	punctual = 5 * time.Second
	// often is how many times something fails that then waits for long: by the
	// measure of controller-runtime the next try comes 80 s after the last one.
	often = 14
	// retried is how often what fails is tried again at the least.
	retried = 10 * time.Second
)

// The addresses of orphans are missing in a pool that is full.
func TestClaimWithoutAMachineIsReapedWhenItIsTime(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 0)
	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{
		OrphanGracePeriod: gracePeriod, WithoutLeaderElection: true,
	})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("and its address given to the next", func(t *testing.T) {
		s := newScene(t, env)
		s.create(harness.Pool(s.ns, harness.PoolRange(firstIP, firstIP)))
		start := time.Now()
		s.bind(s.orphan(harness.OfMetal3, "never", 0))
		s.refused(s.pooled("next"), "is exhausted")

		s.within(gracePeriod+punctual, "the next machine to be created", func(ctx context.Context) error {
			return client.IgnoreAlreadyExists(s.env.Client.Create(ctx, s.pooled("next")))
		})

		s.waitedForGrace(start)
	})
	t.Run("after a restart, which makes it wait anew", func(t *testing.T) {
		s := newScene(t, env)
		s.create(harness.Pool(s.ns))
		claim := s.orphan(harness.OfMetal3, "never", time.Hour)
		manager.Kill()
		start := time.Now()
		if err := manager.Start(t.Context()); err != nil {
			t.Fatal(err)
		}

		s.within(gracePeriod+punctual, "the claim to be reaped", s.isGone(claim))

		s.waitedForGrace(start)
	})
	t.Run("soon after a policy has refused that for a while", func(t *testing.T) {
		s := newScene(t, env)
		s.create(harness.Pool(s.ns))
		claim := s.orphan(harness.OfMetal3, "never", 0)
		allow := s.refuseDeletion(claim)
		failed := s.failures(manager)
		s.within(gracePeriod+4*harness.Soon, "the deletion to be refused often", func(context.Context) error {
			if times := s.failures(manager) - failed; times < often {
				return fmt.Errorf("it was refused %v times", times)
			}
			return nil
		})
		allow()

		s.within(retried+punctual, "the claim to be reaped", s.isGone(claim))
	})
}

// refuseDeletion has a policy refuse the deletion of claims in the namespace, until
// the returned function is called.
func (s *scene) refuseDeletion(claim client.Object) (allow func()) {
	s.Helper()
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	policy.Spec.MatchConstraints = &admissionregistrationv1.MatchResources{
		ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Delete},
			Rule: admissionregistrationv1.Rule{
				APIGroups: []string{ipamv1.GroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"ipclaims"},
			},
		}}},
	}
	policy.Spec.Validations = []admissionregistrationv1.Validation{{Expression: "false", Message: "refused by the test"}}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	binding.Spec.PolicyName = policy.Name
	binding.Spec.ValidationActions = []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}
	binding.Spec.MatchResources = &admissionregistrationv1.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: s.ns}},
	}
	s.createGlobal(policy, binding)
	s.eventually("the policy to be in force", func(ctx context.Context) error {
		if err := s.env.Client.Delete(ctx, claim, client.DryRunAll); err == nil {
			return errors.New("it let a deletion pass")
		}
		return nil
	})
	return func() {
		s.delete(binding)
		s.eventually("the policy to be forgotten", func(ctx context.Context) error {
			return client.IgnoreNotFound(s.env.Client.Delete(ctx, claim, client.DryRunAll))
		})
	}
}

// isGone is a condition that holds when an object does not exist.
func (s *scene) isGone(object client.Object) func(context.Context) error {
	return func(ctx context.Context) error {
		err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(object), object)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("%s exists, deleted at %v", object.GetName(), object.GetDeletionTimestamp()))
	}
}

// waitedForGrace fails the test if less than the grace period has gone by.
func (s *scene) waitedForGrace(start time.Time) {
	s.Helper()
	if age := time.Since(start); age < gracePeriod {
		s.Errorf("it was reaped after %s, want no less than %s", age, gracePeriod)
	}
}

// failures counts the reconciles of the lifecycle controller that failed.
func (s *scene) failures(manager *harness.Manager) float64 {
	s.Helper()
	count, err := manager.Metric(s.Context(), "controller_runtime_reconcile_errors_total", map[string]string{"controller": "lifecycle"})
	if err != nil {
		s.Fatal(err)
	}
	return count
}
