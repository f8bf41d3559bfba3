package ipam_test

import (
	"slices"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// The claim of an endpoint, its cluster and the pool may all have one name.
func TestOwnersOfAnAddressAreItsPoolAndTheClaimThatIsBoundToIt(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := ipamv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	prodPool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod", UID: "pool"}}
	owner := func(kind string, uid types.UID) metav1.OwnerReference {
		return metav1.OwnerReference{APIVersion: ipamv1.GroupVersion.String(), Kind: kind, Name: "prod", UID: uid}
	}
	pool, former, now := owner("IPPool", "pool"), owner("IPClaim", "former"), owner("IPClaim", "now")
	object := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod", UID: "now"}}
	bound := &ipam.Claim{Object: object, Pool: metal3.PoolNamed("prod"), Address: "prod-10-0-0-1"}
	waiting := &ipam.Claim{Object: object, Pool: metal3.PoolNamed("prod")}
	for name, test := range map[string]struct {
		owners []metav1.OwnerReference
		of     string
		claim  *ipam.Claim
		want   []metav1.OwnerReference
	}{
		"as its provider has made it":             {[]metav1.OwnerReference{pool, now}, "prod", bound, []metav1.OwnerReference{pool, now}},
		"as a restore brings it":                  {nil, "prod", bound, []metav1.OwnerReference{pool, now}},
		"of a claim that was recreated":           {[]metav1.OwnerReference{pool, former}, "prod", bound, []metav1.OwnerReference{pool, now}},
		"of a claim that may get another address": {[]metav1.OwnerReference{pool, former}, "prod", waiting, []metav1.OwnerReference{pool}},
		"of a claim that is gone":                 {[]metav1.OwnerReference{pool, former}, "prod", nil, []metav1.OwnerReference{pool}},
		"that was made for another claim":         {[]metav1.OwnerReference{pool}, "other", bound, []metav1.OwnerReference{pool}},
	} {
		t.Run(name, func(t *testing.T) {
			object := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod-10-0-0-1", OwnerReferences: test.owners}}
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(prodPool, object).Build()
			address := &ipam.Address{Object: object, Pool: metal3.PoolNamed("prod"), Claim: test.of}
			owners := ipam.Owners{Client: c, Providers: ipam.NewProviders(metal3.Provider{}), Cached: c, Live: c}

			ipam.DropFormerOwners(address, test.claim)
			var err error
			if test.claim != nil {
				err = owners.Restore(t.Context(), address, test.claim)
			}

			if err != nil || !slices.Equal(object.OwnerReferences, test.want) {
				t.Errorf("got %v and error %v, want %v", object.OwnerReferences, err, test.want)
			}
		})
	}
}
