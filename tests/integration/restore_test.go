package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/tests/harness"
)

// backup is what a backup has of an object, which was made an hour after the claim was used.
func (s *scene) backup(object client.Object, name string) *unstructured.Unstructured {
	s.Helper()
	object.SetNamespace(s.ns)
	object.SetName(name)
	if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		s.Fatal(err)
	}
	saved, err := harness.Saved(object)
	if err != nil {
		s.Fatal(err)
	}
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
func (s *scene) orphan(f harness.Fixture, name string, age time.Duration) client.Object {
	s.Helper()
	claim := f.Claim(s.ns, ipam.ClaimName(name, ipam.Slot{Device: 0}), f.PoolName)
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

// reapedInItsTime waits until the claim of a machine that was never stored is gone,
// and checks that it was left alone for a grace period after its last use. Meanwhile
// may be done what concerns other claims.
func (s *scene) reapedInItsTime(machine string, meanwhile func()) {
	s.Helper()
	var last ipam.Stamp
	s.within(gracePeriod+harness.Soon, "the claim without a machine to be reaped", func(context.Context) error {
		meanwhile()
		claim, err := s.claim(machine)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		last, err = ipam.StampOf(claim)
		return errors.Join(err, fmt.Errorf("it exists, deleted at %v", claim.GetDeletionTimestamp()))
	})
	if age := time.Since(last.Time); age < gracePeriod {
		s.Errorf("the claim was reaped %s after its last use, want no less than %s", age, gracePeriod)
	}
}

// A backup brings claims and addresses before machines, and the Cluster last.
func TestClaimThatABackupBringsWaitsForItsMachine(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		source := newScene(t, shared)
		source.pool(f)
		machine := source.asks(f, "cp-0")
		source.create(machine)
		ip := source.settled("cp-0")
		held, err := source.address(ip)
		if err != nil {
			t.Fatal(err)
		}
		source.change(machine, func() { machine.Spec.ProviderID = "vsphere://" + source.ns })
		claim, saved := source.backup(ipam.EmptyClaim(f.Provider), "cp-0-0"), source.backup(machine, "cp-0")
		address := source.backup(held, held.GetName())

		s := newScene(t, shared)
		if f.Is(harness.OfMetal3) {
			s.restore(address, claim)
			s.create(f.Pool(s.ns))
		} else {
			s.create(f.Pool(s.ns))
			s.restore(claim, address)
		}
		// It waits for longer than a claim that never had a machine.
		s.reaped(s.orphan(f, "never", 0))
		// A machine of another Cluster shares the pool.
		s.create(harness.Cluster(s.ns, "other"), s.asks(f, "other-0", harness.WithCluster("other")))
		if got := s.ip("other-0"); got == ip {
			t.Errorf("another machine got %s, which the restored one has", got)
		}
		if note := s.toldAbout(claim.GetKind(), "cp-0-0", "MachineMissing").Note; note == "" {
			t.Error("the event says nothing")
		}
		s.restore(saved)
		s.create(harness.Cluster(s.ns, harness.DefaultCluster))

		s.eventually("the restored machine to adopt its claim", func(context.Context) error { return s.isFullyAdopted("cp-0", ip) })
	})
}

// The stamp is by the clock of the replica that served the request.
func TestClaimStampedByAClockThatIsBehindIsNotReapedEarly(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	start := time.Now()

	s.reaped(s.orphan(harness.OfMetal3, "cp-0", time.Hour))

	if age := time.Since(start); age < gracePeriod {
		t.Errorf("it was reaped %s after it was made, want no less than %s", age, gracePeriod)
	}
}
