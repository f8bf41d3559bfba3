package lifecycle

import (
	"context"
	"errors"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// at makes the reconciler's clock show this time.
func (r *Reconciler) at(t time.Time) { r.now = func() time.Time { return t } }

// A request that uses the claim changes it, whatever its clock says.
func TestOrphanIsReapedByTheLeadersOwnClock(t *testing.T) {
	for name, test := range map[string]struct {
		mark  func(*ipamv1.IPClaim)
		grace time.Duration
	}{
		"never adopted": {func(c *ipamv1.IPClaim) { kube.SetAnnotation(c, ipam.RequestedByAnnotation, "none") }, time.Minute},
		"adopted once":  {func(*ipamv1.IPClaim) {}, restorePatience},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "claim", CreationTimestamp: metav1.NewTime(now.Add(-24 * time.Hour))}}
			ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})
			ipam.Use(claim, ipam.Stamp{Time: now.Add(-24 * time.Hour), Request: "request"})
			test.mark(claim)
			r := reconciler(t, claim)
			told := events.NewFakeRecorder(10)
			r.events = told
			exists := func(at time.Time) bool {
				r.at(at)
				r.settle(t.Context(), t)
				return r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim) == nil
			}

			if !exists(now) || !exists(now.Add(test.grace-time.Second)) {
				t.Fatal("it was reaped before this leader had seen it for the grace period")
			}
			ipam.Use(claim, ipam.Stamp{Time: now.Add(-48 * time.Hour), Request: "again"})
			if err := r.client.Update(t.Context(), claim); err != nil {
				t.Fatal(err)
			}
			used := now.Add(test.grace)
			if !exists(used) || !exists(used.Add(test.grace-time.Second)) {
				t.Fatal("it was reaped before it had been unused for the grace period")
			}
			if exists(used.Add(test.grace)) {
				t.Error("it was not reaped after the grace period")
			}
			if got, want := len(told.Events), map[bool]int{true: 1}[test.grace == restorePatience]; got != want {
				t.Errorf("it was told %d times, want %d", got, want)
			}
		})
	}
}

// A machine waits for a provider that cannot be written to, but not for ever.
func TestMachineIsLetGoWhenItsProviderFailsForLong(t *testing.T) {
	deleted := metav1.NewTime(now)
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "cp-0", UID: "uid", DeletionTimestamp: &deleted, Finalizers: []string{ipam.ReleaseFinalizer},
	}}
	address := left(now)
	address.Annotations[ipam.MachineUIDAnnotation] = "uid"
	r := reconciler(t, machine, address)
	r.events = events.NewFakeRecorder(10)
	inner := r.client.(client.WithWatch)
	r.client = interceptor.NewClient(inner, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if _, isAddress := obj.(*ipamv1.IPAddress); isAddress {
				return apierrors.NewInternalError(errors.New("failed calling webhook"))
			}
			return c.Patch(ctx, obj, patch, opts...)
		},
	})
	exists := func(at time.Time) bool {
		r.at(at)
		r.settle(t.Context(), t)
		return inner.Get(t.Context(), client.ObjectKeyFromObject(machine), machine) == nil
	}

	if !exists(now) || !exists(now.Add(providerPatience-time.Second)) {
		t.Error("it went before its provider had failed for long")
	}
	if exists(now.Add(providerPatience)) {
		t.Error("it still waits for its provider")
	}
	if err := inner.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !ipam.IsProtected(address) {
		t.Errorf("its address has the finalizers %v (error %v), want ours", address.Finalizers, err)
	}
}
