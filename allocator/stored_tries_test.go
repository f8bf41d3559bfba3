package allocator

import (
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// The claim of its first try was set aside, and given back since. That of its second try has got
// the one address of the pool.
func TestStoredMachineUsesTheClaimOfALaterTry(t *testing.T) {
	later := func(bound bool) *ipamv1.IPClaim {
		return claimOf("uid", "pool", func(claim *ipamv1.IPClaim) {
			claim.Name = ipam.ClaimNameOfTry("cp-0", ipam.Slot{}, 2)
			claim.Annotations[ipam.DeviceAnnotation] = ipam.Slot{}.String()
			if bound {
				claim.Status.Address = &corev1.ObjectReference{Name: "pool-10-0-0-10"}
			}
		})
	}
	first := func(change ...func(*ipamv1.IPClaim)) *ipamv1.IPClaim {
		return claimOf("uid", "pool", append(change, func(claim *ipamv1.IPClaim) { claim.Annotations[ipam.DeviceAnnotation] = ipam.Slot{}.String() })...)
	}
	bound := func(claim *ipamv1.IPClaim) { claim.Status.Address = &corev1.ObjectReference{Name: "pool-10-0-0-11"} }
	for name, test := range map[string]struct {
		claims []client.Object
		want   string
	}{
		"which is the only one":          {[]client.Object{later(true)}, "cp-0-0.r2"},
		"which waits":                    {[]client.Object{later(false)}, "cp-0-0.r2"},
		"while another one waits":        {[]client.Object{first(), later(true)}, "cp-0-0.r2"},
		"not if its first has one, too":  {[]client.Object{first(bound), later(true)}, "cp-0-0"},
		"not if that has failed":         {[]client.Object{claimOf("uid", "pool", func(c *ipamv1.IPClaim) { later(false).DeepCopyInto(c); failed(c) })}, "cp-0-0"},
		"not if it is of an earlier one": {[]client.Object{claimOf("earlier", "pool", func(c *ipamv1.IPClaim) { c.Name = "cp-0-0.r2" })}, "cp-0-0"},
		"not if it is for another device": {[]client.Object{claimOf("uid", "pool", func(c *ipamv1.IPClaim) {
			later(true).DeepCopyInto(c)
			c.Annotations[ipam.DeviceAnnotation] = ipam.Slot{Device: 1}.String()
		})}, "cp-0-0"},
	} {
		t.Run(name, func(t *testing.T) {
			machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0", UID: "uid"}}
			a, al := ofStored(t, append(test.claims, machine)...)
			attempt := &Attempt{allocations: []*allocation{al}}

			if err := a.noteOwn(t.Context(), *al.Request, attempt); err != nil {
				t.Fatal(err)
			}
			if i := al.keptFor(al.want); i >= 0 {
				al.use(al.kept[i].GetName())
			}

			claim, err := a.ensureClaim(t.Context(), al)
			if err != nil || claim.GetName() != test.want {
				t.Errorf("it uses %q, error %v, want %s", al.claim, err, test.want)
			}
		})
	}
}
