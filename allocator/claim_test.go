package allocator

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// slow is an Allocator over a pool and the claim of an earlier try, whose reads
// of claims from the API server run into the deadline of the request.
func slow(t *testing.T) *Allocator {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(ipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, nil), capiipamv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	first, last := ipamv1.IPAddressStr("10.0.0.1"), ipamv1.IPAddressStr("10.0.0.9")
	pool := &ipamv1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"},
		Spec:       ipamv1.IPPoolSpec{Pools: []ipamv1.Pool{{Start: &first, End: &last}}},
	}
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0"}}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(pool, claim)
	for name, index := range indexUnadopted(metal3.Provider{}) {
		builder.WithIndex(claim, name, index)
	}
	for name, index := range indexAddresses(metal3.Provider{}) {
		builder.WithIndex(&ipamv1.IPAddress{}, name, index)
	}
	c := builder.Build()
	live := interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if _, isClaim := obj.(*ipamv1.IPClaim); isClaim {
				return fmt.Errorf("reading a claim: %w", context.DeadlineExceeded)
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})
	return New(ipam.Providers{metal3.Provider{}}, c, live)
}

func requestOfAnEarlierTry() Request {
	return Request{
		Stamp:   ipam.Stamp{Time: time.Now(), Request: "request"},
		Machine: ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}},
		Asks:    []ipam.Ask{askOf(metal3.PoolNamed("pool"))},
	}
}

func TestClaimThatCannotBeReadInTimeIsAnError(t *testing.T) {
	attempt, err := slow(t).Claim(t.Context(), requestOfAnEarlierTry())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v and error %v, want the deadline's", attempt.Bindings, err)
	}
}

func TestTakingBackThatIsCutShortIsAnError(t *testing.T) {
	a := slow(t)
	attempt := a.attempt(requestOfAnEarlierTry())
	if err := a.plan(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	attempt.allocations[0].use("cp-0-0")
	if err := a.TakeBack(t.Context(), attempt); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want the deadline's", err)
	}
}
