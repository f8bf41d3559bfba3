package allocator

import (
	"errors"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// ofStoredCluster is ofStored for VSphereCluster "cp-0-0", whose claim has that name.
func ofStoredCluster(t *testing.T, objects ...client.Object) (*Allocator, *allocation) {
	t.Helper()
	a, al := ofStored(t, objects...)
	al.Machine.Kind, al.Machine.Name = ipam.OfCluster, "cp-0-0"
	al.forgetClaim()
	return a, al
}

func storedCluster(change ...func(*capi.VSphereCluster)) *capi.VSphereCluster {
	cluster := &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cp-0-0", UID: "uid"}}
	for _, c := range change {
		c(cluster)
	}
	return cluster
}

// ofCluster makes a claim that of the VSphereCluster, stamped so long ago.
func ofCluster(ago time.Duration) func(*ipamv1.IPClaim) {
	return func(claim *ipamv1.IPClaim) {
		claim.Annotations, claim.Labels = nil, nil
		ipam.Mark(claim, ipam.Machine{NamespacedName: client.ObjectKeyFromObject(claim), Kind: ipam.OfCluster})
		ipam.Use(claim, ipam.Stamp{Time: time.Now().Add(-ago), Request: "earlier"})
	}
}

func TestNothingIsClaimedForAVSphereClusterThatIsGone(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*capi.VSphereCluster)
		gone   bool
	}{
		"it waits":      {func(*capi.VSphereCluster) {}, false},
		"it is another": {func(c *capi.VSphereCluster) { c.UID = "other" }, true},
		"it has a host": {func(c *capi.VSphereCluster) { c.Spec.ControlPlaneEndpoint.Host = "10.0.0.1" }, true},
		"it is deleted": {func(c *capi.VSphereCluster) { c.Name = "other" }, true},
		"it is to be so": {func(c *capi.VSphereCluster) {
			c.DeletionTimestamp, c.Finalizers = &metav1.Time{Time: time.Now()}, []string{"x/y"}
		}, true},
		"it was adopted":  {func(c *capi.VSphereCluster) { c.Finalizers = []string{"x/y"} }, false},
		"it had bindings": {func(c *capi.VSphereCluster) { c.Annotations = map[string]string{ipam.BindingsAnnotation: "{}"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, al := ofStoredCluster(t, storedCluster(test.change))
			err := a.checkMachine(t.Context(), *al.Request)
			if errors.Is(err, ErrMachineGone) != test.gone || !test.gone && err != nil {
				t.Errorf("got %v, want it gone: %t", err, test.gone)
			}
		})
	}
}

// Nothing owns it, so it is reaped if it comes to nothing.
func TestClaimOfAStoredVSphereClusterIsARequestsClaim(t *testing.T) {
	a, al := ofStoredCluster(t, storedCluster())

	claim, err := a.ensureClaim(t.Context(), al)
	if err != nil {
		t.Fatal(err)
	}

	_, requested := claim.GetAnnotations()[ipam.RequestedByAnnotation]
	if !requested || len(claim.GetOwnerReferences()) > 0 || ipam.IsProtected(claim) || !al.Machine.Holder().Marks(claim) {
		t.Errorf("it has the owners %v, the finalizers %v and the annotations %v", claim.GetOwnerReferences(), claim.GetFinalizers(), claim.GetAnnotations())
	}
}

// Each stamp is a change of the claim, which makes the next try come at once.
func TestClaimIsNotStampedAgainAndAgain(t *testing.T) {
	for name, test := range map[string]struct {
		ago     time.Duration
		stamped bool
	}{"just now": {0, false}, "before": {time.Minute, true}} {
		t.Run(name, func(t *testing.T) {
			a, al := ofStoredCluster(t, storedCluster(), claimOf("", "pool", ofCluster(test.ago)))

			claim, err := a.ensureClaim(t.Context(), al)
			if err != nil {
				t.Fatal(err)
			}

			stamp, err := ipam.StampOf(claim)
			if err != nil || (stamp.Request != "earlier") != test.stamped {
				t.Errorf("the stamp is %v (error %v), want a new one: %t", stamp, err, test.stamped)
			}
		})
	}
}

// What is bound may be the endpoint of a Cluster.
func TestOnlyAClaimThatFailedIsUselessToAVSphereCluster(t *testing.T) {
	bound := func(claim *ipamv1.IPClaim) { claim.Status.Address = &corev1.ObjectReference{Name: "address"} }
	for name, test := range map[string]struct {
		claim *ipamv1.IPClaim
		want  ipam.Reason
		gone  bool
	}{
		"it failed":               {claimOf("", "pool", ofCluster(0), failed), ipam.PoolExhausted, true},
		"it is on another pool":   {claimOf("", "other", ofCluster(0)), ipam.ClaimNotOurs, false},
		"it has an address":       {claimOf("", "pool", ofCluster(0), failed, bound), "", false},
		"it failed for a machine": {claimOf("", "pool", failed), ipam.ClaimNotOurs, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, al := ofStoredCluster(t, storedCluster(), test.claim)

			_, err := a.ensureClaim(t.Context(), al)

			refusal, refused := ipam.AsRefusal(err)
			if refused != (test.want != "") || refused && refusal.Reason != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			err = a.client.Get(t.Context(), client.ObjectKeyFromObject(test.claim), &ipamv1.IPClaim{})
			if gone := err != nil; gone != test.gone || client.IgnoreNotFound(err) != nil {
				t.Errorf("it is gone: %t (error %v), want %t", gone, err, test.gone)
			}
		})
	}
}
