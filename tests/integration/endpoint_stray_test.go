package integration

import (
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// metal3 leaves an address behind when a claim is deleted while it binds it. It has the
// labels of the claim, and would be missing from its pool for ever.
func TestStrayAddressOfAnEndpointIsDeleted(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.vips(f, 239, 239)
	claim := f.Claim(s.ns, "prod", f.PoolName)
	ipam.Mark(claim, ipam.Machine{NamespacedName: s.key("prod"), Kind: ipam.OfCluster})
	stray := &ipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: f.PoolName + "-10-16-56-239", Labels: claim.GetLabels()},
		Spec: ipamv1.IPAddressSpec{
			Address: ipamv1.IPAddressStr(f.IP(239)), Prefix: 24,
			Pool: corev1.ObjectReference{Name: f.PoolName, Namespace: s.ns}, Claim: corev1.ObjectReference{Name: "prod", Namespace: s.ns},
		},
	}
	start := time.Now()

	s.create(stray)

	s.within(gracePeriod+harness.Soon, "the address to be back in its pool", s.isReturned(f.IP(239)))
	s.notBefore(start, gracePeriod)
	s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f)))
	s.expectEndpoint("prod", f.IP(239), 6443)
}
