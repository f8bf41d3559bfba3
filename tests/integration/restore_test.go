package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/tests/harness"
)

// backup is what a backup has of an object: neither owners, nor finalizers, nor
// status. It was made an hour after the claim was used.
func (s *scene) backup(object client.Object, name string) *unstructured.Unstructured {
	s.Helper()
	object.SetNamespace(s.ns)
	object.SetName(name)
	if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		s.Fatal(err)
	}
	saved, err := harness.Unstructured(object)
	if err != nil {
		s.Fatal(err)
	}
	saved.SetFinalizers(nil)
	saved.SetOwnerReferences(nil)
	if saved.GetAnnotations()[ipam.LastUsedAnnotation] != "" {
		ipam.Use(saved, ipam.Stamp{Time: time.Now().Add(-time.Hour), Request: "backup"})
	}
	return saved
}

// restore makes what a backup has, in this scene.
func (s *scene) restore(saved ...*unstructured.Unstructured) {
	s.Helper()
	for _, object := range saved {
		object.SetNamespace(s.ns)
		s.create(object)
	}
}

// orphan is a claim as a request leaves it whose machine is never stored, with a
// stamp of this age.
func (s *scene) orphan(name string, age time.Duration) *ipamv1.IPClaim {
	s.Helper()
	claim := harness.Claim(s.ns, ipam.ClaimName(name, 0), harness.DefaultPool)
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: s.ns, Name: name}})
	kube.SetAnnotation(claim, ipam.RequestedByAnnotation, "none")
	ipam.Use(claim, ipam.Stamp{Time: time.Now().Add(-age), Request: "test"})
	s.create(claim)
	return claim
}

// reaped waits until a claim without a machine is gone.
func (s *scene) reaped(claim client.Object) {
	s.Helper()
	s.within(gracePeriod+harness.Soon, "the claim without a machine to be reaped", s.isGone(claim))
}

// A backup brings claims and addresses before machines, and the Cluster last.
func TestClaimThatABackupBringsWaitsForItsMachine(t *testing.T) {
	t.Parallel()
	source := newScene(t, shared)
	machine := source.pooled("cp-0")
	source.create(harness.Pool(source.ns), machine)
	ip := source.settled("cp-0")
	held, err := source.address(ip)
	if err != nil {
		t.Fatal(err)
	}
	source.change(machine, func() { machine.Spec.ProviderID = "vsphere://" + source.ns })
	claim, address, saved := source.backup(&ipamv1.IPClaim{}, "cp-0-0"), source.backup(held, held.Name), source.backup(machine, "cp-0")

	s := newScene(t, shared)
	s.restore(address, claim)
	s.create(harness.Pool(s.ns))
	// It waits for longer than a claim that never had a machine.
	s.reaped(s.orphan("never", 0))
	s.create(s.pooled("other"))
	if got := s.ip("other"); got == ip {
		t.Errorf("another machine got %s, which the restored one has", got)
	}
	if note := s.toldAbout("IPClaim", "cp-0-0", "MachineMissing").Note; note == "" {
		t.Error("the event says nothing")
	}
	s.restore(saved)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))

	s.eventually("the restored machine to adopt its claim", func(context.Context) error { return s.isFullyAdopted("cp-0", ip) })
}

func TestInClusterClaimThatABackupBringsWaitsForItsMachine(t *testing.T) {
	t.Parallel()
	source := newScene(t, shared)
	source.inClusterPool()
	machine := source.inClusterMachine("cp-0")
	source.create(machine)
	ip := source.inClusterSettled("cp-0")
	source.change(machine, func() { machine.Spec.ProviderID = "vsphere://" + source.ns })
	claim, address, saved := source.backup(&capiipamv1.IPAddressClaim{}, "cp-0-0"), source.backup(&capiipamv1.IPAddress{}, "cp-0-0"), source.backup(machine, "cp-0")

	s := newScene(t, shared)
	s.create(harness.InClusterPool(s.ns), harness.Pool(s.ns))
	s.restore(claim, address)
	s.reaped(s.orphan("never", 0))
	// A machine of another Cluster shares the pool.
	s.create(harness.Cluster(s.ns, "other"), s.inClusterMachine("other-0", harness.WithCluster("other")))
	if got := s.ip("other-0"); got == ip {
		t.Errorf("another machine got %s, which the restored one has", got)
	}
	s.restore(saved)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))

	s.eventually("the restored machine to adopt its claim", func(context.Context) error {
		return errors.Join(s.isMarked("cp-0", ip), s.isInClusterAdopted("cp-0", ip))
	})
}

// The stamp is by the clock of the replica that served the request.
func TestClaimStampedByAClockThatIsBehindIsNotReapedEarly(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	start := time.Now()

	s.reaped(s.orphan("cp-0", time.Hour))

	if age := time.Since(start); age < gracePeriod {
		t.Errorf("it was reaped %s after it was made, want no less than %s", age, gracePeriod)
	}
}
