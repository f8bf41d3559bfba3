package allocator

import (
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

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
