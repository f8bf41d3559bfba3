package retry

import (
	"context"
	"errors"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

var (
	ofMachineSet = metav1.OwnerReference{APIVersion: "cluster.x-k8s.io/v1beta1", Kind: "MachineSet", Name: "md", UID: "uid"}
	lackOfOne    = refusalOf("pool", 1)
)

// refusalOf is a refusal for want of so many addresses of a pool.
func refusalOf(pool string, needed uint64) *ipam.Refusal {
	return &ipam.Refusal{Reason: ipam.PoolExhausted, Shortages: []ipam.Shortage{{Pool: metal3.PoolNamed(pool), Needed: needed}}}
}

// notes runs a Recorder on these objects, whose API server fails this many times.
func notes(t *testing.T, failures int, objects ...client.Object) (*Recorder, client.Client) {
	t.Helper()
	return notesOn(t, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if failures--; failures >= 0 {
				return errors.New("the API server is away")
			}
			return c.Patch(ctx, obj, patch, opts...)
		},
	}, objects...)
}

func notesOn(t *testing.T, funcs interceptor.Funcs, objects ...client.Object) (*Recorder, client.Client) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clusterv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(objects...).WithInterceptorFuncs(funcs).
		WithIndex(&clusterv1.MachineSet{}, byUID, indexByUID).
		WithIndex(kube.MetadataOf(capi.InScheme(scheme, capi.KubeadmControlPlaneKind)), byUID, indexByUID).Build()
	return NewRecorder(c, c, events.NewFakeRecorder(10)), c
}

// drain writes what is noted, retries included, and returns what the MachineSet
// is annotated with.
func drain(t *testing.T, o *Recorder, c client.Client) string {
	t.Helper()
	for len(o.pending) > 0 {
		next, _ := o.queue.Get()
		o.writeOrRetry(t.Context(), next)
		o.queue.Done(next)
	}
	set := &clusterv1.MachineSet{}
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: "ns", Name: "md"}, set); err != nil {
		t.Fatal(err)
	}
	return set.Annotations[ipam.RefusedByAnnotation]
}

func machineSet(uid types.UID, refusedBy string) *clusterv1.MachineSet {
	set := &clusterv1.MachineSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "md", UID: uid}}
	if refusedBy != "" {
		set.Annotations = map[string]string{ipam.RefusedByAnnotation: refusedBy}
	}
	return set
}

func TestRefusalsArePutBesideThoseOfOtherPools(t *testing.T) {
	o, c := notes(t, 0, machineSet("uid", "IPPool.ipam.metal3.io/another"))
	o.Record("ns", ofMachineSet, lackOfOne)
	o.Record("ns", ofMachineSet, refusalOf("third", 2))
	o.Record("ns", ofMachineSet, &ipam.Refusal{Reason: ipam.AddressInUse})
	want := "AddressInUse,IPPool.ipam.metal3.io/another,IPPool.ipam.metal3.io/pool,IPPool.ipam.metal3.io/third:2"
	if got := drain(t, o, c); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRefusalIsWrittenInTheEndIfTheAPIServerFails(t *testing.T) {
	o, c := notes(t, 2, machineSet("uid", ""))
	o.Record("ns", ofMachineSet, lackOfOne)
	if got := drain(t, o, c); got != "IPPool.ipam.metal3.io/pool" {
		t.Errorf("got %q", got)
	}
}

func TestRefusalThatCannotBeWrittenIsGivenUp(t *testing.T) {
	o, c := notes(t, maxRetries+1, machineSet("uid", ""))
	o.Record("ns", ofMachineSet, lackOfOne)
	if got := drain(t, o, c); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestRefusalIsNotedOfNobodyElse(t *testing.T) {
	other := ofMachineSet
	other.UID = "another"
	template := ofMachineSet
	template.APIVersion, template.Kind = "controlplane.example.org/v1", "ControlPlane"
	for name, test := range map[string]struct {
		ref metav1.OwnerReference
	}{
		"another object of the name":     {other},
		"a kind that we know nothing of": {template},
	} {
		t.Run(name, func(t *testing.T) {
			o, c := notes(t, 0, machineSet("uid", ""))
			o.Record("ns", test.ref, lackOfOne)
			if got := drain(t, o, c); got != "" {
				t.Errorf("got %q, want nothing", got)
			}
		})
	}
}

func TestOwnersThatWaitToBeWrittenAreBounded(t *testing.T) {
	o := NewRecorder(nil, nil, nil)
	for namespace := range 2 * maxPending / maxPendingOfOne {
		for i := range 2 * maxPendingOfOne {
			ref := ofMachineSet
			ref.Name = fmt.Sprintf("md-%d", i)
			o.Record(fmt.Sprintf("ns-%d", namespace), ref, lackOfOne)
		}
		if got := o.in[fmt.Sprintf("ns-%d", namespace)]; got > maxPendingOfOne {
			t.Errorf("%d of one namespace are pending, want %d at the most", got, maxPendingOfOne)
		}
	}
	if len(o.pending) != maxPending || o.queue.Len() != maxPending {
		t.Errorf("%d are pending, %d in the queue, want %d", len(o.pending), o.queue.Len(), maxPending)
	}
	for len(o.pending) > 0 {
		next, _ := o.queue.Get()
		o.take(next)
		o.take(next)
	}
	if len(o.in) > 0 {
		t.Errorf("%v are counted as pending, and none is", o.in)
	}
}

// The machine was answered and not stored, and nobody tells so but its claim.
func TestMachineThatWasNotStoredIsNotedOnItsOwner(t *testing.T) {
	const pool = "IPPool.ipam.metal3.io/pool"
	for name, test := range map[string]struct {
		before string
		uid    types.UID
		want   string
	}{
		"an owner that waits for nothing": {"", "uid", "MachineNotStored"},
		"an owner that waits for a pool":  {pool, "uid", pool + ",MachineNotStored"},
		"an owner that is gone":           {"", "another", ""},
	} {
		t.Run(name, func(t *testing.T) {
			o, c := notes(t, 0, machineSet("uid", test.before))
			if err := o.NoteUnstored(t.Context(), "ns", test.uid); err != nil {
				t.Fatal(err)
			}
			if got := drain(t, o, c); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOwnerThatSaysSoIsNotReadAgain(t *testing.T) {
	o, _ := notes(t, 0, machineSet("uid", "MachineNotStored"))
	if err := o.NoteUnstored(t.Context(), "ns", "uid"); err != nil {
		t.Fatal(err)
	}
	if n := o.queue.Len(); n != 0 {
		t.Errorf("%d are to be written, want none", n)
	}
}
