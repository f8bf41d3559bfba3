package retry

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/ipam"
)

// said is the condition of the MachineSet in a namespace, nil if it has none.
func said(t *testing.T, c client.Client, namespace string) *metav1.Condition {
	t.Helper()
	set := &clusterv1.MachineSet{}
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "md"}, set); err != nil {
		t.Fatal(err)
	}
	return meta.FindStatusCondition(set.Status.Conditions, ipam.AddressesAvailableCondition)
}

func inWords(pool, message string) *ipam.Refusal {
	refusal := refusalOf(pool, 1)
	refusal.Message = message
	return refusal
}

func TestRefusalIsSaidInACondition(t *testing.T) {
	o, c := notes(t, 0, machineSet("uid", ""))
	o.Record("ns", ofMachineSet, inWords("pool", "no address"))
	drain(t, o, c)
	if got := said(t, c, "ns"); got == nil || got.Status != metav1.ConditionFalse || got.Reason != "PoolExhausted" ||
		got.Message != "no address" || got.LastTransitionTime.IsZero() {
		t.Errorf("got the condition %+v", got)
	}
}

func TestRefusalBySomebodyElseIsSaidInACondition(t *testing.T) {
	o, c := notes(t, 0, machineSet("uid", ""))
	if err := o.NoteUnstored(t.Context(), "ns", "uid"); err != nil {
		t.Fatal(err)
	}
	drain(t, o, c)
	if got := said(t, c, "ns"); got == nil || got.Reason != "MachineNotStored" || got.Message != unstored {
		t.Errorf("got the condition %+v", got)
	}
}

// Each write makes CAPI try again at once, and be refused in yet other words.
func TestSameRefusalInOtherWordsIsNotWrittenAgain(t *testing.T) {
	o, c := notes(t, 0, machineSet("uid", ""))
	for _, words := range []string{"first", "second"} {
		o.Record("ns", ofMachineSet, inWords("pool", words))
		drain(t, o, c)
	}
	if got := said(t, c, "ns"); got == nil || got.Message != "first" {
		t.Errorf("got the condition %+v, want the first text", got)
	}
}

func TestConditionKeepsItsTimeWhenAnotherRefusalIsAdded(t *testing.T) {
	before := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	set := machineSet("uid", "IPPool.ipam.metal3.io/another")
	set.Status.Conditions = []metav1.Condition{{
		Type: ipam.AddressesAvailableCondition, Status: metav1.ConditionFalse, Reason: "PoolExhausted", LastTransitionTime: before,
	}}
	o, c := notes(t, 0, set)
	o.Record("ns", ofMachineSet, inWords("pool", "no address here either"))
	drain(t, o, c)
	if got := said(t, c, "ns"); got == nil || got.Message != "no address here either" || !got.LastTransitionTime.Equal(&before) {
		t.Errorf("got the condition %+v, want the new text, and the time %s", got, before)
	}
}

func TestConditionThatMayNotBeWrittenKeepsNothingUp(t *testing.T) {
	forbidden := interceptor.Funcs{SubResourceApply: func(context.Context, client.Client, string, runtime.ApplyConfiguration, ...client.SubResourceApplyOption) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "machinesets"}, "md", nil)
	}}
	o, c := notesOn(t, forbidden, machineSet("uid", ""))
	o.Record("ns", ofMachineSet, lackOfOne)
	if got := drain(t, o, c); got != "IPPool.ipam.metal3.io/pool" {
		t.Errorf("the owner is annotated with %q", got)
	}
	r := controllerOn(t, fakePools{"a": 1}, forbidden, "a")
	if _, err := r.Reconcile(t.Context(), poolKey{ref, "a"}); err != nil {
		t.Fatal(err)
	}
	if got := waitingIn(t, r); len(got) > 0 {
		t.Errorf("still waiting: %v", got)
	}
}

func TestLongTextOfAConditionIsCut(t *testing.T) {
	o, c := notes(t, 0, machineSet("uid", ""))
	o.Record("ns", ofMachineSet, inWords("pool", strings.Repeat("x", 40_000)))
	drain(t, o, c)
	if got := said(t, c, "ns"); got == nil || len(got.Message) > 1024 {
		t.Errorf("got the condition %+v", got)
	}
}

func TestTouchTakesTheConditionOff(t *testing.T) {
	r := controllerOn(t, fakePools{"a": 1}, interceptor.Funcs{}, "a")
	o := NewRecorder(r.client, r.client, events.NewFakeRecorder(1))
	owner := ofMachineSet
	owner.UID = "a"
	o.Record("a", owner, inWords("other", "no address"))
	next, _ := o.queue.Get()
	o.writeOrRetry(t.Context(), next)
	if said(t, r.client, "a") == nil {
		t.Fatal("there is no condition to take off")
	}
	if _, err := r.Reconcile(t.Context(), poolKey{ref, "a"}); err != nil {
		t.Fatal(err)
	}
	if got := said(t, r.client, "a"); got != nil {
		t.Errorf("it says %+v", got)
	}
}

// Else the owner would have the condition of the other refusal, and no annotation, with
// which it is taken off.
func TestTouchBesideAnotherRefusalIsDoneAnew(t *testing.T) {
	raced := false
	r := controllerOn(t, fakePools{"a": 1}, interceptor.Funcs{
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, obj runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
			if err := c.SubResource(sub).Apply(ctx, obj, opts...); err != nil || raced {
				return err
			}
			raced = true
			set := &clusterv1.MachineSet{}
			if err := c.Get(ctx, types.NamespacedName{Namespace: "a", Name: "md"}, set); err != nil {
				return err
			}
			set.Annotations[ipam.RefusedByAnnotation] += ",AddressInUse"
			set.Status.Conditions = []metav1.Condition{{Type: ipam.AddressesAvailableCondition, Status: metav1.ConditionFalse}}
			if err := c.Status().Update(ctx, set.DeepCopy()); err != nil {
				return err
			}
			return c.Patch(ctx, set, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"`+ipam.RefusedByAnnotation+`":"`+set.Annotations[ipam.RefusedByAnnotation]+`"}}}`)))
		},
	}, "a")
	if _, err := r.Reconcile(t.Context(), poolKey{ref, "a"}); err == nil {
		t.Error("got no error")
	}
	if got := waitingIn(t, r); len(got) != 1 {
		t.Errorf("still waiting: %v, want the one that was refused again", got)
	}
}

func TestDeploymentOfTheMachineSetIsToldOfEachRefusal(t *testing.T) {
	set := machineSet("uid", "IPPool.ipam.metal3.io/pool")
	set.OwnerReferences = []metav1.OwnerReference{{APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "MachineDeployment", Name: "workers", UID: "of-workers"}}
	o, c := notes(t, 0, set)
	o.Record("ns", ofMachineSet, inWords("pool", "no address"))
	drain(t, o, c)
	select {
	case got := <-o.events.(*events.FakeRecorder).Events:
		if !strings.HasPrefix(got, "Warning PoolExhausted no address") {
			t.Errorf("got the event %q", got)
		}
	default:
		t.Error("there is no event")
	}
}

func TestConditionIsWrittenInTheEndIfTheAPIServerFails(t *testing.T) {
	failures := 1
	o, c := notesOn(t, interceptor.Funcs{
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, obj runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
			if failures--; failures >= 0 {
				return apierrors.NewInternalError(context.DeadlineExceeded)
			}
			return c.SubResource(sub).Apply(ctx, obj, opts...)
		},
	}, machineSet("uid", ""))
	o.Record("ns", ofMachineSet, lackOfOne)
	if got := drain(t, o, c); got != "IPPool.ipam.metal3.io/pool" || said(t, c, "ns") == nil {
		t.Errorf("the owner is annotated with %q, and says %+v", got, said(t, c, "ns"))
	}
}
