package lifecycle

import (
	"context"
	"errors"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// strayOf is an address that nobody uses, and that says it is of the machine cp-0 and
// of this claim.
func strayOf(claim string) *ipamv1.IPAddress {
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "stray", UID: "stray", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
		Annotations: map[string]string{ipam.MachineNameAnnotation: "cp-0"},
	}}
	address.Spec.Address, address.Spec.Claim.Name, address.Spec.Pool.Name = "10.0.0.77", claim, "pool"
	return address
}

// beside is a reconciler over a machine that is to be adopted, and an address that has
// been a stray one for long. Claims of this name cannot be read live.
func beside(t *testing.T, stray *ipamv1.IPAddress, unreadable string) (*Reconciler, *ipamv1.IPClaim) {
	t.Helper()
	machine := cp0(onItsDevice, annotatedWith("cp-0-0", "10.0.0.1/24"), func(m *capi.VSphereMachine) { m.Finalizers = []string{ipam.ReleaseFinalizer} })
	claim := unused(naming("pool-10-0-0-1"))
	pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
	r := reconciler(t, machine, claim, answering(), stray, pool)
	r.events = events.NewFakeRecorder(100)
	stored := r.client.(client.WithWatch)
	r.live = interceptor.NewClient(stored, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if key.Name == unreadable {
				return errors.New("the API server does not answer")
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})
	r.at(now.Add(-time.Hour))
	if err := stored.Get(t.Context(), client.ObjectKeyFromObject(stray), stray); err != nil {
		t.Fatal(err)
	}
	r.see(stray)
	r.at(now)
	return r, claim
}

func TestMachineIsAdoptedBesideAnAddressWhoseClaimCannotBeRead(t *testing.T) {
	r, claim := beside(t, strayOf("other"), "other")

	_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}})

	if err == nil {
		t.Error("nobody is told that the claim cannot be read")
	}
	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil || len(claim.OwnerReferences) != 1 {
		t.Errorf("the claim has the owners %v (error %v), want the machine", claim.OwnerReferences, err)
	}
	stray := strayOf("other")
	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(stray), stray); err != nil {
		t.Errorf("the address whose claim cannot be read is gone: %v", err)
	}
}

// The schemas of some addresses do not say what the name of their claim may be. The API
// server's client refuses to ask for some.
func TestNameThatNoClaimCanHaveIsThatOfNone(t *testing.T) {
	for _, name := range []string{"", "no/name", "50%", ".."} {
		t.Run(name, func(t *testing.T) {
			r, _ := beside(t, strayOf(name), name)
			for range 2 {
				if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}); err != nil {
					t.Fatal(err)
				}
			}
			stray := strayOf(name)
			if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(stray), stray); client.IgnoreNotFound(err) != nil || err == nil {
				t.Errorf("the address of no claim is still there (error %v)", err)
			}
		})
	}
}

// Whether a claim was abandoned was asked about the one that the cache had.
func TestClaimThatIsNotBeingDeletedAnyMoreIsNotAbandoned(t *testing.T) {
	for name, replaced := range map[string]*ipamv1.IPClaim{"gone": nil, "made anew": unused()} {
		t.Run(name, func(t *testing.T) {
			var objects []client.Object
			if replaced != nil {
				objects = append(objects, replaced)
			}
			r := reconciler(t, objects...)
			h := bound(withoutPool, terminatingClaim)
			h.claim.SetNamespace("ns")

			if err := r.rereadClaims(t.Context(), &state{namespace: "ns", machineState: absent()}, &h); err != nil {
				t.Fatal(err)
			}

			if next, _ := decide(absent(), h, now, grace); next == dropFinalizers {
				t.Errorf("the decision is to %s", next)
			}
		})
	}
}
