package integration

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// deployment makes a MachineDeployment.
func (s *scene) deployment(name string) *clusterv1.MachineDeployment {
	s.Helper()
	set := harness.MachineSet(s.ns, name, "workers")
	deployment := &clusterv1.MachineDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name, Labels: set.Labels}}
	deployment.Spec.ClusterName = set.Spec.ClusterName
	deployment.Spec.Selector = set.Spec.Selector
	deployment.Spec.Template = set.Spec.Template
	s.create(deployment)
	return deployment
}

func TestRefusalIsToldToTheMachineDeployment(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(88, 88))
		s.create(s.asks(f, "cp-0"))
		deployment := s.deployment("workers")
		set := s.machineSet("workers", harness.WithOwner(deployment))

		s.refused(s.asks(f, "workers-x7k2p", harness.WithOwner(set)), "is exhausted")

		event := s.toldAbout("MachineDeployment", "workers", string(ipam.PoolExhausted))
		if event.Note != s.text(exhausted(f, "1 of 1 addresses in use")) || event.Type != corev1.EventTypeWarning ||
			event.Regarding.UID != deployment.UID || event.Regarding.APIVersion != clusterv1.GroupVersion.String() {
			t.Errorf("got the event %+v, want a warning of the denial about %s", event, deployment.UID)
		}
	})
}

func TestRefusalOfALateMachineIsToldToTheMachineDeployment(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 88))
	s.create(s.asks(f, "cp-0"))
	s.settled("cp-0")
	deployment := s.deployment("workers")
	owner, set := s.capiMachine("cp-1"), harness.MachineSet(s.ns, "cp-1-set", "workers")
	s.change(set, func() { harness.WithOwner(deployment)(set) })
	s.create(s.asks(f, "cp-1", harness.WithOwner(owner), harness.WithFinalizer(harness.MachineFinalizer)))

	if event := s.toldAbout("MachineDeployment", "workers", string(ipam.PoolExhausted)); event.Regarding.UID != deployment.UID {
		t.Errorf("got the event %+v, want one about %s", event, deployment.UID)
	}
}

// Cluster API tries under a new name each time: nobody looks for events there.
func TestRefusedMachinesOfAnOwnerLeaveNoEventsOnTheirNames(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	owner := s.machineSet("owner")

	s.denyMachines(poolNotFound, harness.WithPool(harness.DefaultPool), harness.WithOwner(owner))

	s.toldAbout("MachineSet", "owner", "PoolNotFound")
	s.consistently("no event is about a machine", func(context.Context) error {
		for i := range tries {
			if events := s.eventsAbout("VSphereMachine", refusedName(i)); len(events) > 0 {
				return fmt.Errorf("there is %+v", events)
			}
		}
		return nil
	})
}

// saying is the condition of an owner, nil if it has none, in whichever version is served.
func (s *scene) saying(owner client.Object, condition string) map[string]any {
	s.Helper()
	stored, err := s.plain(owner)
	if err != nil {
		s.Fatal(err)
	}
	path := []string{"status", "conditions"}
	if stored.GroupVersionKind().Version == "v1beta1" {
		path = []string{"status", "v1beta2", "conditions"}
	}
	all, _, err := unstructured.NestedSlice(stored.Object, path...)
	if err != nil {
		s.Fatal(err)
	}
	for _, one := range all {
		if fields := one.(map[string]any); fields["type"] == condition {
			return fields
		}
	}
	return nil
}

// silent waits until the owner, which tried again and was not refused, has no condition of
// ours, and no mark of that.
func (s *scene) silent(owner client.Object) {
	s.Helper()
	s.within(2*harness.Soon, owner.GetName()+" to say nothing", func(context.Context) error {
		_, waits := s.refusedBy(owner)
		_, tried := owner.GetAnnotations()[ipam.TriedAgainAnnotation]
		if condition := s.saying(owner, ipam.AddressesAvailableCondition); condition != nil || waits || tried {
			return fmt.Errorf("it says %v, with the annotations %v", condition, owner.GetAnnotations())
		}
		return nil
	})
}

// expectSaying checks that a refused owner says why.
func (s *scene) expectSaying(owner client.Object, reason ipam.Reason, message string) {
	s.Helper()
	got := s.saying(owner, ipam.AddressesAvailableCondition)
	if got["status"] != "False" || got["reason"] != string(reason) || got["message"] != s.text(message) {
		s.Errorf("%s says %v, want False, %s, %q", owner.GetName(), got, reason, s.text(message))
	}
}

func TestRefusedOwnerSaysSoInAConditionUntilItIsMadeToTryAgain(t *testing.T) {
	for name, make := range map[string]func(*scene) client.Object{
		"MachineSet":          func(s *scene) client.Object { return s.machineSet("owner") },
		"KubeadmControlPlane": func(s *scene) client.Object { return s.controlPlane("owner") },
	} {
		t.Run(name, func(t *testing.T) {
			harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
				s := newScene(t, shared)
				s.pool(f, f.WithIPs(88, 88))
				holder := s.asks(f, "holder-0")
				s.create(holder)
				owner := make(s)
				// As CAPI does it.
				others := client.RawPatch(types.MergePatchType, []byte(saying("Deleting")))
				if err := s.env.Client.Status().Patch(t.Context(), owner, others, client.FieldOwner("manager")); err != nil {
					t.Fatal(err)
				}
				before := s.saying(owner, "Deleting")

				s.refused(s.asks(f, "owner-x7k2p", harness.WithOwner(owner)), "is exhausted")
				s.eventually("the refusal on the owner", func(context.Context) error {
					return s.isWaiting(owner, f.Reference(f.PoolName).String())
				})
				s.expectSaying(owner, ipam.PoolExhausted, exhausted(f, "1 of 1 addresses in use"))
				expectSame(s, "the other condition", s.saying(owner, "Deleting"), before)

				s.delete(holder)
				s.touched(owner)
				s.silent(owner)
				expectSame(s, "the other condition", s.saying(owner, "Deleting"), before)
			})
		})
	}
}

// CAPI writes its conditions as a list, with those of others as it has read them.
func TestConditionStaysBesideThoseThatOthersWrite(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(1)
	owner := s.machineSet("owner")
	s.waiting(owner)
	set := &clusterv1.MachineSet{}
	if err := s.env.Client.Get(t.Context(), client.ObjectKeyFromObject(owner), set); err != nil {
		t.Fatal(err)
	}
	before := set.DeepCopy()
	set.Status.Conditions = append(set.Status.Conditions, metav1.Condition{
		Type: "Deleting", Status: metav1.ConditionFalse, Reason: "NotDeleting", LastTransitionTime: metav1.Now(),
	})
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := s.env.Client.Status().Patch(t.Context(), set, patch, client.FieldOwner("manager")); err != nil {
		t.Fatal(err)
	}
	if s.saying(owner, ipam.AddressesAvailableCondition) == nil {
		t.Error("our condition is gone")
	}

	s.free(0)
	s.touched(owner)
	s.silent(owner)
	if s.saying(owner, "Deleting") == nil {
		t.Error("the other condition is gone")
	}
}
