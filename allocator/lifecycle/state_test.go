package lifecycle

import (
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"

	"capv-static-ip.dev/allocator/ipam"
)

// metal3's two controllers may each make an address for one claim.
func TestAddressThatTheMachineWasGivenComesBeforeTheOneThatTheClaimNames(t *testing.T) {
	named := bound(func(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		a.Name, a.Spec.Address = "second", "10.0.0.2"
		c.Status.Address = &corev1.ObjectReference{Name: "second"}
	})
	given := bound(func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Name = "first" })

	got, err := (&Reconciler{}).addressOf(t.Context(), "ns", &named, []ipam.Address{*named.address, *given.address})
	if err != nil || got.GetName() != "first" {
		t.Errorf("got %v and error %v, want the address named first", got, err)
	}
}
