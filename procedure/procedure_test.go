package procedure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

const leaseName = "leader"

func silent(string, ...any) {}

func TestLeaseThatIsRenewedIsHeld(t *testing.T) {
	ctx := t.Context()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: leaseName, UID: "u"}}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = new("a"), new(int32(60))
	c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(lease).
		WithIndex(&coordinationv1.Lease{}, "metadata.name", func(o client.Object) []string { return []string{o.GetName()} }).Build()
	l := Leases{Name: leaseName}

	if held, err := l.Held(ctx, c); err != nil || len(held) != 1 {
		t.Fatalf("got %q and %v, want that it is held", held, err)
	}
	seen := l.seen["u"]
	seen.since = seen.since.Add(-2 * time.Minute)
	l.seen["u"] = seen
	if held, err := l.Held(ctx, c); err != nil || len(held) != 0 {
		t.Errorf("got %q and %v, want that nobody has renewed it", held, err)
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(lease), lease); err != nil {
		t.Fatal(err)
	}
	lease.Labels = map[string]string{"renewed": "x"}
	if err := c.Update(ctx, lease); err != nil {
		t.Fatal(err)
	}
	if held, err := l.Held(ctx, c); err != nil || len(held) != 1 {
		t.Errorf("got %q and %v, want that it is held again", held, err)
	}
	lease.Spec.HolderIdentity = new("")
	if err := c.Update(ctx, lease); err != nil {
		t.Fatal(err)
	}
	if held, err := l.Held(ctx, c); err != nil || len(held) != 0 {
		t.Errorf("got %q and %v, want that it was given up", held, err)
	}
}

func TestWaitEndsWithWhatIsLeft(t *testing.T) {
	err := Until(t.Context(), silent, func(context.Context) ([]string, time.Duration, error) { return []string{"a"}, 0, nil })

	stop := &Stop{}
	if !errors.As(err, &stop) || !slices.Equal(stop.Because, []string{"a"}) {
		t.Errorf("got %v, want a stop because of a", err)
	}
}

func TestRunEndsAtTheFirstStepThatFails(t *testing.T) {
	var done []string
	step := func(name string, err error) Step {
		return Step{Name: name, Do: func(context.Context) error {
			done = append(done, name)
			return err
		}}
	}
	failure := &Stop{What: "no", Because: []string{"a"}, Next: "b"}
	plan := &Plan{Steps: []Step{step("first", nil), step("second", failure), step("third", nil)}}
	var reported []string

	err := plan.Run(t.Context(), func(format string, args ...any) { reported = append(reported, fmt.Sprintf(format, args...)) })

	if !errors.Is(err, failure) || err.Error() != "step 2, second: no\n  a\nNow: b" {
		t.Errorf("got %v, want that the second step has stopped", err)
	}
	if !slices.Equal(done, []string{"first", "second"}) || !slices.Equal(reported, []string{"step 1 of 3 is done: first"}) {
		t.Errorf("done is %q, and reported %q", done, reported)
	}
}

func TestPlanWithAStopIsNotBegun(t *testing.T) {
	stop := &Stop{What: "no"}
	plan := &Plan{Stops: []*Stop{stop}, Steps: []Step{{Do: func(context.Context) error {
		t.Error("a step was done")
		return nil
	}}}}

	if err := plan.Run(t.Context(), silent); !errors.Is(err, stop) {
		t.Errorf("got %v, want the stop", err)
	}
}

func TestLockOfAnOlderProgramIsHeldWhileItIsRenewed(t *testing.T) {
	lock := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: leaseName, UID: "u", Annotations: map[string]string{lockAnnotation: "{}"},
	}}
	byName := func(o client.Object) []string { return []string{o.GetName()} }
	c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(lock).
		WithIndex(&coordinationv1.Lease{}, "metadata.name", byName).WithIndex(&corev1.ConfigMap{}, "metadata.name", byName).Build()
	for _, test := range []struct {
		with bool
		want []string
	}{{true, []string{"ConfigMap ns/leader, by which somebody leads"}}, {false, nil}} {
		l := Leases{Name: leaseName, WithLocks: test.with}
		if held, err := l.Held(t.Context(), c); err != nil || !slices.Equal(held, test.want) {
			t.Errorf("with locks %v: got %q and %v, want %q", test.with, held, err, test.want)
		}
	}
	l := Leases{Name: leaseName, WithLocks: true, seen: map[types.UID]sighting{"u": {version: "earlier", since: time.Now().Add(-time.Minute)}}}
	if held, err := l.Held(t.Context(), c); err != nil || len(held) != 1 {
		t.Errorf("got %q and %v, want that it was renewed since", held, err)
	}
}
