package ipam

import (
	"slices"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestOwnerOfAnAddressIsTheClaimThatIsBoundToIt(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := ipamv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	bound := &Claim{Object: &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "cp-0", UID: "now"}}, Address: "pool-10-0-0-1"}
	waiting := &Claim{Object: bound.Object}
	pool, former, own := metav1.OwnerReference{Name: "pool", UID: "pool"}, metav1.OwnerReference{Name: "cp-0", UID: "before"}, metav1.OwnerReference{
		APIVersion: ipamv1.GroupVersion.String(), Kind: "IPClaim", Name: "cp-0", UID: "now",
	}
	for name, test := range map[string]struct {
		owners []metav1.OwnerReference
		claim  *Claim
		want   []metav1.OwnerReference
	}{
		"as its provider has made it":             {[]metav1.OwnerReference{pool, own}, bound, []metav1.OwnerReference{pool, own}},
		"as a restore brings it":                  {nil, bound, []metav1.OwnerReference{own}},
		"of a claim that was recreated":           {[]metav1.OwnerReference{pool, former}, bound, []metav1.OwnerReference{pool, own}},
		"of a claim that may get another address": {[]metav1.OwnerReference{pool, former}, waiting, []metav1.OwnerReference{pool}},
		"of a claim that is gone":                 {[]metav1.OwnerReference{pool, former}, nil, []metav1.OwnerReference{pool}},
	} {
		t.Run(name, func(t *testing.T) {
			object := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "pool-10-0-0-1", OwnerReferences: test.owners}}

			err := CorrectOwner(&Address{Object: object, Claim: "cp-0"}, test.claim, scheme)

			if err != nil || !slices.Equal(object.OwnerReferences, test.want) {
				t.Errorf("got %v and error %v, want %v", object.OwnerReferences, err, test.want)
			}
		})
	}
}
