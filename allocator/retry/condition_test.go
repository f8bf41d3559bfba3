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
	patrolAt(t, r, settleAfter, "a")
	if got := annotationsIn(t, r.client, "a"); len(got) > 0 {
		t.Errorf("it is annotated with %v", got)
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

// touched is a reconciler of one owner that was refused, has a condition, and was made
// to try again.
func touched(t *testing.T, funcs interceptor.Funcs) (*reconciler, *Recorder) {
	t.Helper()
	r := controllerOn(t, fakePools{"a": 1}, funcs, "a")
	o := NewRecorder(r.client, r.client, events.NewFakeRecorder(10))
	refuse(t, o, "other")
	if said(t, r.client, "a") == nil {
		t.Fatal("there is no condition")
	}
	if _, err := r.Reconcile(t.Context(), poolKey{ref, "a"}); err != nil {
		t.Fatal(err)
	}
	if got := waitingIn(t, r); len(got) > 0 {
		t.Fatalf("still waiting: %v", got)
	}
	return r, o
}

// refuse has the owner refused for want of an address of this pool.
func refuse(t *testing.T, o *Recorder, pool string) {
	t.Helper()
	owner := ofMachineSet
	owner.UID = "a"
	o.Record("a", owner, inWords(pool, "no address"))
	next, _ := o.queue.Get()
	o.writeOrRetry(t.Context(), next)
	o.queue.Done(next)
}

func annotationsIn(t *testing.T, c client.Client, namespace string) map[string]string {
	t.Helper()
	set := &clusterv1.MachineSet{}
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "md"}, set); err != nil {
		t.Fatal(err)
	}
	return set.Annotations
}

func TestConditionGoesWhenATouchHasHelped(t *testing.T) {
	r, _ := touched(t, interceptor.Funcs{})
	if wait := patrolAt(t, r, settleAfter-time.Second, "a"); wait != time.Second || said(t, r.client, "a") == nil {
		t.Errorf("looks again after %s, and the condition is %+v; want it to stay for a second", wait, said(t, r.client, "a"))
	}
	patrolAt(t, r, settleAfter, "a")
	if got := said(t, r.client, "a"); got != nil {
		t.Errorf("it says %+v", got)
	}
	if got := annotationsIn(t, r.client, "a"); len(got) > 0 {
		t.Errorf("it is annotated with %v", got)
	}
}

// Else each try of a MachineSet that goes on being refused would have a condition come and
// go, and CAPI try twice more.
func TestConditionStaysWhenATouchHasNotHelped(t *testing.T) {
	writes := 0
	r, o := touched(t, interceptor.Funcs{
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, obj runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
			writes++
			return c.SubResource(sub).Apply(ctx, obj, opts...)
		},
	})
	refuse(t, o, "other")
	patrolAt(t, r, settleAfter, "a")
	if got := said(t, r.client, "a"); got == nil || writes != 1 {
		t.Errorf("the condition is %+v, and was written %d times", got, writes)
	}
	if _, tried := annotationsIn(t, r.client, "a")[ipam.TriedAgainAnnotation]; tried {
		t.Error("it is still said to try again")
	}
}

// The mark must not go: with it goes what will take the condition off.
func TestRefusalWhileTheConditionIsTakenOffKeepsItsMark(t *testing.T) {
	for name, test := range map[string]struct {
		triesAgain bool
		mark       string
	}{
		"refused":                  {false, ipam.RefusedByAnnotation},
		"refused, and tried again": {true, ipam.TriedAgainAnnotation},
	} {
		t.Run(name, func(t *testing.T) {
			var o *Recorder
			raced := false
			r, made := touched(t, interceptor.Funcs{
				Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
					if patch.Type() == types.JSONPatchType && !raced {
						raced = true
						refuse(t, o, "other")
						if test.triesAgain {
							set := &clusterv1.MachineSet{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "md"}}
							again := `{"metadata":{"annotations":{"` + ipam.RefusedByAnnotation + `":null,"` + ipam.TriedAgainAnnotation + `":"2026-01-02T03:04:05Z"}}}`
							if err := c.Patch(ctx, set, client.RawPatch(types.MergePatchType, []byte(again))); err != nil {
								return err
							}
						}
					}
					return c.Patch(ctx, obj, patch, opts...)
				},
			})
			o = made
			r.now = func() time.Time { return start.Add(settleAfter) }
			_, _ = r.Reconcile(t.Context(), poolKey{Namespace: "a"})
			if got := annotationsIn(t, r.client, "a"); !raced || got[test.mark] == "" || said(t, r.client, "a") == nil {
				t.Errorf("it is annotated with %v, and says %+v", got, said(t, r.client, "a"))
			}
		})
	}
}

func TestTimeOfATryThatIsNotOursEndsAtOnce(t *testing.T) {
	for name, mark := range map[string]string{"yet to come": "2999-01-02T03:04:05Z", "illegible": "soon"} {
		t.Run(name, func(t *testing.T) {
			r, _ := touched(t, interceptor.Funcs{})
			set := &clusterv1.MachineSet{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "md"}}
			patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"`+ipam.TriedAgainAnnotation+`":"`+mark+`"}}}`))
			if err := r.client.Patch(t.Context(), set, patch); err != nil {
				t.Fatal(err)
			}
			patrolAt(t, r, 0, "a")
			if got := said(t, r.client, "a"); got != nil {
				t.Errorf("it says %+v", got)
			}
		})
	}
}

func TestOwnerThatTriesAgainIsLookedAtWhileOthersWait(t *testing.T) {
	r, _ := touched(t, interceptor.Funcs{})
	other := machineSet("other", string(ipam.AddressInUse))
	other.Namespace, other.Name = "a", "other"
	if err := r.client.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if wait := patrolAt(t, r, settleAfter-time.Second, "a"); wait != time.Second {
		t.Errorf("looks again after %s, want a second", wait)
	}
}

func TestOwnerThatTriesAgainHasItsNamespaceLookedAt(t *testing.T) {
	set := machineSet("uid", "")
	set.Annotations = map[string]string{ipam.TriedAgainAnnotation: "2026-01-02T03:04:05Z"}
	if got := poolsOfOwner(t.Context(), set); len(got) != 1 || got[0] != (poolKey{Namespace: "ns"}) {
		t.Errorf("got %v, want the namespace", got)
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
