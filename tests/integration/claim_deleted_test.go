package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// metal3 binds a claim that asks for it to the address that is there.
func TestClaimDeletedByHandKeepsItsAddressAndComesBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolRange(firstIP, secondIP)))
	machine := s.pooled("cp-0")
	s.create(machine)
	ip := s.settled("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}

	// While the machine is paused, our finalizer stays on the claim.
	s.annotate(machine, "cluster.x-k8s.io/paused", new(""))
	s.delete(claim)
	s.claimGoing("cp-0")
	s.create(s.pooled("cp-1"))
	if got := s.ip("cp-1"); got == ip {
		t.Fatalf("the second machine got %s, which the first one uses", got)
	}
	s.refused(s.pooled("cp-2"), "is exhausted")
	s.consistently("the address is protected", func(context.Context) error { return s.isProtected(ip) })

	s.annotate(machine, "cluster.x-k8s.io/paused", nil)
	s.eventually("the claim to come back with its address", func(context.Context) error { return s.isRecreated("cp-0", ip, claim) })
	if note := s.told("cp-0", "ClaimRecreated"); !strings.Contains(note, ip) {
		t.Errorf("event ClaimRecreated says %q, want it to name %s", note, ip)
	}

	// The same again at full speed.
	recreated, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	s.delete(recreated)
	s.eventually("the claim to come back once more", func(context.Context) error { return s.isRecreated("cp-0", ip, recreated) })

	s.delete(machine)
	s.gone(machine)
	s.returned(ip)
	s.create(s.pooled("cp-2"))
	if got := s.ip("cp-2"); got != ip {
		t.Errorf("the third machine got %s, want the address that came back, %s", got, ip)
	}
}

// isRecreated returns an error unless a claim other than the former one is bound
// to the machine's address, which has no owner that does not exist.
func (s *scene) isRecreated(machine, ip string, former client.Object) error {
	claim, err := s.claim(machine)
	if err != nil {
		return err
	}
	if claim.GetUID() == former.GetUID() || !claim.GetDeletionTimestamp().IsZero() {
		return fmt.Errorf("claim %s is the former one, or being deleted", claim.GetName())
	}
	if err := s.isAdopted(machine, ip); err != nil {
		return err
	}
	address, err := s.address(ip)
	if err != nil {
		return err
	}
	if bound := harness.ProviderOf(claim).ReadClaim(claim).Address; bound != address.GetName() {
		return fmt.Errorf("claim %s is bound to %q, want %s", claim.GetName(), bound, address.GetName())
	}
	for _, owner := range address.GetOwnerReferences() {
		if owner.Name == claim.GetName() && owner.UID != claim.GetUID() {
			return fmt.Errorf("address %s is owned by the former claim %s", address.GetName(), owner.UID)
		}
	}
	return isOwnedBy(claim, address)
}

// isOwnedBy returns an error unless the claim is an owner of the address.
func isOwnedBy(claim, address client.Object) error {
	if !ipam.Answers(address, claim.GetUID()) {
		return fmt.Errorf("address %s has the owners %v, want claim %s", address.GetName(), address.GetOwnerReferences(), claim.GetUID())
	}
	return nil
}

// A backup that is restored brings an address without its owners, and metal3 gives it to the
// claim all the same.
func TestAddressWithoutOwnersIsItsClaimsAgain(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		s.create(s.asks(f, "cp-0"))
		ip := s.settled("cp-0")
		address, err := s.address(ip)
		if err != nil {
			t.Fatal(err)
		}

		owners := address.GetOwnerReferences()
		s.change(address, func() { address.SetOwnerReferences(nil) })

		s.eventually("claim and pool to be its owners", func(context.Context) error {
			address, err := s.address(ip)
			if err != nil {
				return err
			}
			for _, owner := range owners {
				if !ipam.Answers(address, owner.UID) {
					return fmt.Errorf("it is not owned by %s %s", owner.Kind, owner.Name)
				}
			}
			return nil
		})
	})
}

// The in-cluster provider cannot be asked by a claim, so that the protected address
// alone is what the machine has.
func TestInClusterClaimDeletedByHandKeepsItsAddressAndIsNotMissed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.89"))
	machine := s.inClusterMachine("cp-0")
	s.create(machine)
	ip := s.settled("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}

	s.delete(claim)
	s.gone(claim)

	s.boundTo(s.foreignClaim(harness.OfInCluster, "second"), inClusterSecond)
	third := s.foreignClaim(harness.OfInCluster, "third")
	s.eventually("the dead claim to be no owner any more", func(context.Context) error { return s.isNoOwner(claim, ip) })
	s.consistently("the address is kept, and nothing else is claimed", func(context.Context) error {
		if claims := s.claims(); len(claims) != 2 {
			return fmt.Errorf("there are %d claims, want only the test's own", len(claims))
		}
		return errors.Join(s.isProtected(ip), s.isUnbound(third))
	})
	s.delete(machine)
	s.gone(machine)
	s.boundTo(third, ip)
}

// isNoOwner returns an error if an address is owned by an object, or missing.
func (s *scene) isNoOwner(object client.Object, ip string) error {
	address, err := s.address(ip)
	if err != nil {
		return err
	}
	for _, owner := range address.GetOwnerReferences() {
		if owner.UID == object.GetUID() {
			return fmt.Errorf("address %s is owned by %s %s", address.GetName(), owner.Kind, owner.Name)
		}
	}
	return nil
}
