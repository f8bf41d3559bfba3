package procedure

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
