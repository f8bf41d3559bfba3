package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
	"capv-static-ip.dev/tests/harness"
)

// isAnother returns an error unless there is a claim of the name of a former one that is
// not that, and is not being deleted.
func (s *scene) isAnother(f harness.Fixture, former client.Object) error {
	claim, err := s.env.claimNamed(s, f, former.GetName())
	if err != nil {
		return err
	}
	if claim.GetUID() == former.GetUID() || !claim.GetDeletionTimestamp().IsZero() {
		return fmt.Errorf("claim %s is the former one, or being deleted", claim.GetName())
	}
	return nil
}

// The in-cluster provider has the address go with its claim, and can be asked for it
// only when it is gone: the protected address is then what keeps it.
func TestClaimOfAnEndpointThatIsDeletedKeepsItsAddress(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 231, 232)
		s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f)))
		cluster := s.clusterUses("prod", f.IP(231))
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(231)) })
		claim, err := s.env.claimNamed(s, f, "prod")
		if err != nil {
			t.Fatal(err)
		}

		s.delete(claim)

		if f.Is(harness.OfMetal3) {
			s.eventually("the claim to come back with its address", func(context.Context) error {
				return errors.Join(s.isAnother(f, claim), s.endpointIsHeld("prod", f.IP(231)))
			})
			if note := s.toldAbout("VSphereCluster", "prod", "ClaimRecreated").Note; note == "" {
				t.Error("no event tells of it")
			}
		}
		s.consistently("the address is protected", func(context.Context) error { return s.isProtected(f.IP(231)) })
		s.create(harness.VSphereCluster(s.ns, "dev", endpointOf(f)))
		s.expectEndpoint("dev", f.IP(232), 6443)
		s.delete(cluster)
		gone := s.vsphereCluster("prod")
		s.delete(gone)
		s.gone(gone)
		s.returned(f.IP(231))
	})
}

func TestEndpointOfABackupGetsItsClaimBack(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 233, 234)
		text, err := machine.EndpointBindings("prod", ipam.Binding{
			Pool: f.Reference(f.PoolName), Claim: "prod", Address: netip.MustParsePrefix(f.IP(234) + "/24"),
		}).Encode()
		if err != nil {
			t.Fatal(err)
		}

		s.create(harness.VSphereCluster(s.ns, "prod", harness.WithEndpoint(f.IP(234), 6443), harness.WithAnnotation(ipam.BindingsAnnotation, text)))

		s.eventually("the claim to come back with its address", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(234)) })
		claim, err := s.env.claimNamed(s, f, "prod")
		if err != nil {
			t.Fatal(err)
		}
		s.eventually("the claim to be bound, and nobody else's", func(context.Context) error {
			if err := s.env.Client.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
				return err
			}
			if read := f.Provider.ReadClaim(claim); read.Address == "" || ipam.IsRecreated(claim) {
				return fmt.Errorf("it has the address %q and the annotations %v", read.Address, claim.GetAnnotations())
			}
			return nil
		})
		// What it says of the endpoint of another VSphereCluster counts nothing.
		s.create(harness.VSphereCluster(s.ns, "dev", harness.WithEndpoint(f.IP(233), 6443), harness.WithAnnotation(ipam.BindingsAnnotation, text)))
		s.consistently("nothing is claimed by a copied annotation", func(context.Context) error {
			if claims := names(s.claims()); len(claims) != 1 {
				return fmt.Errorf("there are the claims %v", claims)
			}
			return nil
		})
		restored := s.vsphereCluster("prod")
		s.delete(restored)
		s.gone(restored)
		s.returned(f.IP(234))
	})
}
