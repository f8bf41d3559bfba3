package allocator

import (
	"errors"
	"slices"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/faults"
)

func TestClaimThatIsMadeAnewHasTheFinalizerOfAProviderThatServesItsPool(t *testing.T) {
	pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "one", Finalizers: []string{ipamv1.IPPoolFinalizer}}}
	pool.Status.LastUpdated = &metav1.Time{Time: time.Now()}
	there, missing := played(t, pool).client.(client.WithWatch), played(t).client
	for name, test := range map[string]struct {
		pools client.Reader
		want  []string
	}{
		"a pool that it serves":      {there, []string{ipamv1.IPClaimFinalizer}},
		"a pool that is gone":        {missing, nil},
		"a pool that cannot be read": {faults.Failing[*ipamv1.IPPool](there, errors.New("no")), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := Recreation{Providers: played(t).providers, Live: missing, Pools: test.pools}

			claim := r.NewClaim(t.Context(), ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "cp-0"}}, bindingOfOne("cp-0-0"))

			if got := claim.GetFinalizers(); claim.GetName() != "cp-0-0" || !slices.Equal(got, test.want) {
				t.Errorf("claim %q has the finalizers %v, want %v", claim.GetName(), got, test.want)
			}
		})
	}
}

// Its provider may have given the address to another one before it knew of this.
func TestClaimThatIsMadeBehindItsAddressIsToBeVerified(t *testing.T) {
	for name, placed := range map[string]bool{"behind its address": true, "by a request": false} {
		t.Run(name, func(t *testing.T) {
			a := played(t)
			r := Recreation{Providers: a.providers, Client: a.client, Live: a.live}
			claim := func() *ipamv1.IPClaim { return claimOf("uid", "one") }

			made, err := r.Make(t.Context(), claim(), bindingOfOne("cp-0-0"), placed, time.Now())
			if err != nil || !made {
				t.Fatalf("it is made: %v, error %v", made, err)
			}
			got := &ipamv1.IPClaim{}
			if err := a.client.Get(t.Context(), client.ObjectKeyFromObject(claim()), got); err != nil || ipam.IsRecreated(got) != placed {
				t.Errorf("it has the annotations %v, error %v", got.Annotations, err)
			}
			if made, err := r.Make(t.Context(), claim(), bindingOfOne("cp-0-0"), placed, time.Now()); made || err != nil {
				t.Errorf("one that is there is made again: %v, error %v", made, err)
			}
			if err := r.Confirm(t.Context(), got); err != nil || ipam.IsRecreated(got) {
				t.Errorf("it has the annotations %v, error %v, when it is confirmed", got.Annotations, err)
			}
		})
	}
}
