package allocator

import (
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// Either reader may be ahead of the other. A claim that metal3 still works on must
// keep its finalizer, or its address is lost.
func TestClaimIsAbandonedOnlyIfNeitherReaderHasItsPool(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := ipamv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	without := fake.NewClientBuilder().WithScheme(scheme).Build()
	with := fake.NewClientBuilder().WithScheme(scheme).WithObjects(poolOf()).Build()
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0"}}
	claim.Spec.Pool.Name = "pool"

	for name, test := range map[string]struct {
		cached, live client.Reader
		want         bool
	}{
		"the pool is there, and nothing is read live": {with, nil, false},
		"the cache has not seen the pool yet":         {without, with, false},
		"the pool is gone":                            {without, without, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Metal3{}.Abandons(t.Context(), test.cached, test.live, Metal3{}.Claim(claim))
			if err != nil || got != test.want {
				t.Errorf("got %v and error %v, want %v", got, err, test.want)
			}
		})
	}
}
