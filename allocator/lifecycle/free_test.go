package lifecycle

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// reconciler is one over these objects, with metal3 as the only provider.
func reconciler(t *testing.T, objects ...client.Object) *Reconciler {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{ipamv1.AddToScheme, func(s *runtime.Scheme) error { return capi.AddToScheme(s, nil) }} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...)
	providers := ipam.Providers{metal3.Provider{}}
	for _, source := range allocator.New(providers, nil, nil).Sources() {
		for name, index := range source.Indexes {
			builder.WithIndex(source.Object, name, index)
		}
	}
	claim, address := metal3.Provider{}.Kinds()
	for name, index := range indexClaims(metal3.Provider{}) {
		builder.WithIndex(claim, name, index)
	}
	for name, index := range indexAddresses(metal3.Provider{}) {
		builder.WithIndex(address, name, index)
	}
	c := builder.Build()
	return &Reconciler{providers: providers, client: c, live: c, pools: c, grace: time.Minute, now: time.Now}
}

// left is an address of cp-0 without claim and machine: its claim's labels,
// which metal3 copies, and our protection.
func left(created time.Time) *ipamv1.IPAddress {
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "pool-10-0-0-1", CreationTimestamp: metav1.NewTime(created),
		Labels:      map[string]string{ipam.MachineLabel: ipam.MachineLabelValue("cp-0")},
		Finalizers:  []string{ipamv1.IPAddressFinalizer, ipam.InUseFinalizer},
		Annotations: map[string]string{ipam.MachineNameAnnotation: "cp-0"},
	}}
	address.Spec.Address, address.Spec.Claim.Name, address.Spec.Pool.Name = "10.0.0.1", "cp-0-0", "pool"
	return address
}

func (r *Reconciler) settle(ctx context.Context, t *testing.T) {
	t.Helper()
	for range 3 {
		key := types.NamespacedName{Namespace: "ns", Name: "cp-0"}
		if _, err := r.Reconcile(ctx, reconcile.Request{NamespacedName: key}); err != nil {
			t.Fatal(err)
		}
	}
}

// clusterctl takes machine and claim away: the machine goes on elsewhere, and uses
// the address there. Others take them away by force, and leave no such mark.
func TestAddressThatWasLeftBehindStaysOnlyIfItsMachineWasMoved(t *testing.T) {
	key := types.NamespacedName{Namespace: "ns", Name: "cp-0"}
	marked := map[string]string{clusterctlv1.DeleteForMoveAnnotation: ""}
	for name, test := range map[string]struct {
		gone []client.Object
		note bool
		want bool
	}{
		"machine seen to be moved": {gone: []client.Object{
			&ipamv1.IPClaim{}, &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Annotations: marked}},
		}, want: true},
		"move noted on the address": {note: true, want: true},
		"claim taken away by force": {gone: []client.Object{&ipamv1.IPClaim{}}},
	} {
		t.Run(name, func(t *testing.T) {
			address := left(time.Now().Add(-time.Hour))
			address.Annotations[ipam.MachineUIDAnnotation] = "uid"
			if test.note {
				address.Annotations[ipam.MovedAnnotation] = ""
			}
			r := reconciler(t, address)
			for _, last := range test.gone {
				r.noteGone(key, last)
			}

			r.at(now)
			r.settle(t.Context(), t)
			r.at(now.Add(r.grace))
			r.settle(t.Context(), t)

			got := &ipamv1.IPAddress{}
			err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), got)
			switch {
			case client.IgnoreNotFound(err) != nil:
				t.Fatal(err)
			case (err == nil) != test.want:
				t.Errorf("it exists: %t, want %t", err == nil, test.want)
			case err == nil && (slices.Contains(got.Finalizers, ipam.InUseFinalizer) || ipam.MachineOf(got) != ""):
				t.Errorf("it has the finalizers %v and the annotations %v, want none of ours", got.Finalizers, got.Annotations)
			}
		})
	}
}

// An address that no machine was ever stored with is of no use to anybody. When it
// was made is the API server's word.
func TestAddressOfAMachineThatNeverCameIsDeletedByTheLeadersOwnClock(t *testing.T) {
	for name, created := range map[string]time.Time{"long ago": now.Add(-time.Hour), "in the future": now.Add(time.Hour)} {
		t.Run(name, func(t *testing.T) {
			address := left(created)
			r := reconciler(t, address)
			exists := func(at time.Time) bool {
				r.at(at)
				r.settle(t.Context(), t)
				return r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address) == nil
			}

			if !exists(now) || !exists(now.Add(r.grace-time.Second)) {
				t.Fatal("it was deleted before this leader had seen it for the grace period")
			}
			if exists(now.Add(r.grace)) {
				t.Errorf("it has the finalizers %v after the grace period, want it gone", address.Finalizers)
			}
		})
	}
}

// What this leader writes itself is no use of an address, and does not make it wait
// anew.
func TestSpareAddressWaitsForOneGracePeriod(t *testing.T) {
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
	address := left(now.Add(-time.Hour))
	r := reconciler(t, machine, address)
	exists := func(at time.Time) bool {
		r.at(at)
		r.settle(t.Context(), t)
		return r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address) == nil
	}

	if !exists(now) || !exists(now.Add(r.grace-time.Second)) || !ipam.IsProtected(address) {
		t.Fatal("it was unprotected before this leader had seen it for the grace period")
	}
	if exists(now.Add(r.grace)) {
		t.Errorf("it has the finalizers %v after the grace period, want it gone", address.Finalizers)
	}
}

func TestAddressIsProtectedForAVMThatOutlivesItsMachine(t *testing.T) {
	address := left(time.Now().Add(-time.Hour))
	address.Annotations[ipam.MachineUIDAnnotation] = "uid"
	vm := &capi.VSphereVM{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", OwnerReferences: []metav1.OwnerReference{{
		APIVersion: "infrastructure.cluster.x-k8s.io/v1beta2", Kind: capi.VSphereMachineKind.Kind, Name: "cp-0", UID: "uid",
	}}}}
	r := reconciler(t, address, vm)

	r.settle(t.Context(), t)

	got := &ipamv1.IPAddress{}
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), got); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(got.Finalizers, ipam.InUseFinalizer) {
		t.Errorf("it has the finalizers %v, want ours", got.Finalizers)
	}
}

// The garbage collector holds a machine that is deleted in the foreground, and a
// provider with a reuse grace period holds its claim and address. They are then
// looked at again, when they are given back already.
func TestReleaseCountsOnceHoweverOftenItIsLookedAt(t *testing.T) {
	gone := metav1.NewTime(now)
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "cp-0", UID: "uid", DeletionTimestamp: &gone,
		Finalizers: []string{ipam.ReleaseFinalizer, metav1.FinalizerDeleteDependents},
	}}
	h := bound(named, held)
	claim, address := h.claim.Object.(*ipamv1.IPClaim), h.address.Object.(*ipamv1.IPAddress)
	claim.Namespace, address.Namespace, address.Name = "ns", "ns", "address"
	claim.Spec.Pool.Name, address.Spec.Pool.Name = "pool", "pool"
	// Its provider's finalizer holds each of them.
	address.Finalizers = append(address.Finalizers, ipamv1.IPAddressFinalizer)
	pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
	r := reconciler(t, machine, claim, address, pool)
	told := events.NewFakeRecorder(10)
	r.events = told
	before := valueOf(t, claimsReleased)

	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil || claim.DeletionTimestamp.IsZero() {
		t.Fatalf("its claim is deleted at %v (error %v), want it to be on its way", claim.DeletionTimestamp, err)
	}
	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(machine), machine); err != nil {
		t.Fatalf("the machine, which was to be looked at again: %v", err)
	}
	if got := valueOf(t, claimsReleased) - before; got != 1 {
		t.Errorf("it was counted %v times, want once", got)
	}
	if got := len(told.Events); got != 1 {
		t.Errorf("it was told %d times, want once", got)
	}
}

func valueOf(t *testing.T, counter prometheus.Counter) float64 {
	t.Helper()
	metric := &dto.Metric{}
	if err := counter.Write(metric); err != nil {
		t.Fatal(err)
	}
	return metric.GetCounter().GetValue()
}

// The garbage collector deletes the claim of a machine that is deleted in the
// foreground, as a rule in the same moment.
func TestReleaseIsToldOnceThoughOthersDeleteTheClaimFirst(t *testing.T) {
	deleted := metav1.NewTime(now)
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "cp-0", UID: "uid", DeletionTimestamp: &deleted, Finalizers: []string{ipam.ReleaseFinalizer},
	}}
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "cp-0-0", UID: "claim", Finalizers: []string{ipamv1.IPClaimFinalizer},
		OwnerReferences: []metav1.OwnerReference{{Kind: capi.VSphereMachineKind.Kind, Name: "cp-0", UID: "uid"}},
	}}
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})
	address := left(now)
	address.Annotations[ipam.MachineUIDAnnotation] = "uid"
	claim.Status.Address = &corev1.ObjectReference{Name: address.Name}
	r := reconciler(t, machine, claim, address)
	told := events.NewFakeRecorder(10)
	r.events = told
	r.client = interceptor.NewClient(r.client.(client.WithWatch), interceptor.Funcs{
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, _ ...client.DeleteOption) error {
			if err := c.Delete(ctx, obj); err != nil {
				return err
			}
			return apierrors.NewConflict(schema.GroupResource{Resource: "ipclaims"}, obj.GetName(), errors.New("it has changed"))
		},
	})

	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(machine), machine); !apierrors.IsNotFound(err) {
		t.Errorf("got error %v, want the machine to be gone", err)
	}
	if len(told.Events) != 1 {
		t.Errorf("it was told %d times, want once", len(told.Events))
	}
}

// notes are the owners of which it was noted that their machines were not stored.
type notes []types.UID

func (n *notes) NoteUnstored(_ context.Context, _ string, owner types.UID) error {
	*n = append(*n, owner)
	return nil
}

// A leader that comes late to the claim has not noted it before.
func TestOwnerIsToldOfAMachineThatWasNotStoredBeforeItsClaimIsReaped(t *testing.T) {
	for name, test := range map[string]struct {
		owner ipam.Owner
		want  int
	}{
		"of an owner": {ipam.Owner{UID: "set"}, 1},
		"of nobody":   {ipam.Owner{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: "cp-0-0", UID: "claim", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
			}}
			ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})
			ipam.Use(claim, ipam.Stamp{Time: now.Add(-time.Hour)})
			kube.SetAnnotation(claim, ipam.RequestedByAnnotation, ipam.RequestedBy(test.owner))
			address := left(now.Add(-time.Hour))
			claim.Status.Address = &corev1.ObjectReference{Name: address.Name}
			r := reconciler(t, claim, address)
			told := &notes{}
			r.refusals = told
			r.now = func() time.Time { return now }
			r.settle(t.Context(), t) // it is seen
			r.now = func() time.Time { return now.Add(time.Hour) }

			r.settle(t.Context(), t)

			if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); !apierrors.IsNotFound(err) {
				t.Errorf("got error %v, want the claim to be gone", err)
			}
			if len(*told) != test.want {
				t.Errorf("noted of %v, want %d", *told, test.want)
			}
		})
	}
}

// A machine that lives was stored: it is only a claim of its other create that goes.
func TestOwnerIsNotToldOfAClaimThatItsMachineWasStoredWithout(t *testing.T) {
	claim := unused(naming("pool-10-0-0-1"), func(c *ipamv1.IPClaim) {
		kube.SetAnnotation(c, ipam.RequestedByAnnotation, ipam.RequestedBy(ipam.Owner{UID: "set"}))
	})
	// The device has another address, so that this one cannot be restored to it.
	r := reconciler(t, claim, answering(), cp0())
	told := &notes{}
	r.refusals = told
	r.at(now)
	r.settle(t.Context(), t) // it is seen
	r.at(now.Add(r.grace))

	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); !apierrors.IsNotFound(err) {
		t.Errorf("got error %v, want the claim to be gone", err)
	}
	if len(*told) > 0 {
		t.Errorf("noted of %v, want nobody", *told)
	}
}

func TestOfferedClaimOfAMachineThatNeverCameIsItsMakersAgain(t *testing.T) {
	claim := unused(naming("pool-10-0-0-1"), func(c *ipamv1.IPClaim) { kube.SetAnnotation(c, ipam.ForAnnotation, "cp-0") })
	r := reconciler(t, claim, answering())
	r.at(now)
	r.settle(t.Context(), t) // it is seen
	r.at(now.Add(r.grace))

	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil || ipam.MachineOf(claim) != "" {
		t.Errorf("it is marked for machine %q (error %v), want it without a mark", ipam.MachineOf(claim), err)
	}
}

// Nobody else takes that finalizer off, and it says that somebody still needs the address.
func TestStrayAddressThatOthersHoldUpStays(t *testing.T) {
	address := answering(func(a *ipamv1.IPAddress) { a.Finalizers = []string{"other"} })
	r := reconciler(t, address)
	r.at(now)
	r.settle(t.Context(), t) // it is seen
	r.at(now.Add(r.grace))

	r.settle(t.Context(), t)

	if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || !slices.Equal(address.Finalizers, []string{"other"}) {
		t.Errorf("it has the finalizers %v (error %v), want it as it was", address.Finalizers, err)
	}
}

// The provider frees the address of a claim when that may go, which our finalizer keeps it
// from. An address of another claim is not freed by that.
func TestClaimMayGoWhenItsAddressIsUnprotected(t *testing.T) {
	for name, test := range map[string]struct {
		answers types.UID
		want    bool
	}{
		"address of the claim":             {"claim", true},
		"address of an earlier one of its": {"earlier", false},
	} {
		t.Run(name, func(t *testing.T) {
			claim := unused(naming("pool-10-0-0-1"), heldBack)
			address := answering(adoptedOnce, func(a *ipamv1.IPAddress) { a.OwnerReferences[0].UID = test.answers })
			pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
			r := reconciler(t, claim, address, pool)

			if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}); err != nil {
				t.Fatal(err)
			}
			if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || ipam.IsProtected(address) {
				t.Errorf("the address is protected: %t (error %v), want it to be free", ipam.IsProtected(address), err)
			}
			if err := r.live.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); apierrors.IsNotFound(err) != test.want {
				t.Errorf("reading the claim gives error %v, want it gone: %t", err, test.want)
			}
		})
	}
}
