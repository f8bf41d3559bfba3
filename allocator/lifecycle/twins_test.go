package lifecycle

import (
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
)

// metal3 serves IPAddressClaims on its pools, too, whoever makes them.
func TestClaimOfTheOtherAPIOnTheSamePoolHidesNoneOfOurs(t *testing.T) {
	now := metav1.Now()
	owner := metav1.OwnerReference{APIVersion: "infrastructure.cluster.x-k8s.io/v1beta2", Kind: "VSphereMachine", Name: "cp-0", UID: "uid"}
	claim := unused(func(c *ipamv1.IPClaim) {
		c.OwnerReferences, c.Finalizers = []metav1.OwnerReference{owner}, []string{ipam.InUseFinalizer}
		delete(c.Annotations, ipam.RequestedByAnnotation)
		naming("pool-10-0-0-1")(c)
	})
	address := answering(func(a *ipamv1.IPAddress) { kube.SetAnnotation(a, ipam.MachineUIDAnnotation, "uid") })
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "cp-0", UID: "uid", DeletionTimestamp: &now, Finalizers: []string{ipam.ReleaseFinalizer},
	}}
	somebodys := &capiipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "somebodys"}}
	pool := metal3.PoolNamed("pool")
	somebodys.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: pool.APIGroup, Kind: pool.Kind, Name: pool.Name}
	r := reconciler(t, claim, address, machine, somebodys)
	r.events = events.NewFakeRecorder(10)

	r.settle(t.Context(), t)

	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("got error %v, want that the machine's claim is gone; it has %v", err, claim.Finalizers)
	}
	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(address), address); err != nil || ipam.IsProtected(address) {
		t.Errorf("the address is %+v, error %v, want it unprotected", address.ObjectMeta, err)
	}
	if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(somebodys), somebodys); err != nil || len(somebodys.Labels) > 0 {
		t.Errorf("the claim of somebody is %+v, error %v, want it as it was", somebodys.ObjectMeta, err)
	}
}
