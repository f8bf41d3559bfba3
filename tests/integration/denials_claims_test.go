package integration

import (
	"cmp"
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// claimInDeletion is the denial of machine cp-0 while its claim is going.
func claimInDeletion(f harness.Fixture) string {
	return `claim "cp-0-0" of ` + poolText(f) + `, or its address, is still being deleted: retry when it is gone`
}

func TestForeignClaimOfTheNameIsDeniedAndLeftAlone(t *testing.T) {
	const belongs = `claim "cp-0-0" in namespace "NAMESPACE" exists and belongs to something else: delete it, give the machine another name, or annotate the claim with capv-static-ip.dev/for: <name of the machine>`
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, test := range map[string]struct {
			// pool is the one that the claim is for, if not the machine's.
			pool   string
			change func(s *scene, claim client.Object)
			denial string
		}{
			"with an owner": {
				change: func(s *scene, claim client.Object) {
					owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "owner"}}
					s.create(owner)
					harness.WithOwner(owner)(claim)
				},
				denial: belongs,
			},
			"with a finalizer": {
				change: func(_ *scene, claim client.Object) { harness.WithFinalizer(hold)(claim) },
				denial: belongs,
			},
			"for another pool": {
				pool: "other",
				change: func(s *scene, _ client.Object) {
					s.create(f.Pool(s.ns, harness.WithPoolName("other"), f.WithIPs(200, 201)))
				},
				denial: fmt.Sprintf(`claim "cp-0-0" in namespace "NAMESPACE" exists and is for %s "other", not for %[1]s %q: `+
					`delete it, or name that pool in %s`, f.Reference("").Kind, f.PoolName, f.AskedBy),
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				claim := f.Claim(s.ns, "cp-0-0", cmp.Or(test.pool, f.PoolName))
				s.pool(f)
				test.change(s, claim)
				s.create(claim)
				s.bind(claim)

				s.denyMachine(test.denial, "cp-0", f.Ask(f.PoolName))

				after, err := s.claim("cp-0")
				if err != nil {
					t.Fatal(err)
				}
				expectSame(s, "the claim that is not ours", after, claim)
			})
		}
	})
}

func TestForeignClaimThatIsOfferedToTheMachineIsTakenOver(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.bind(s.foreignClaim(harness.OfMetal3, "somebody"))
	claim := harness.Claim(s.ns, "cp-0-0", harness.DefaultPool)
	harness.WithAnnotation(ipam.ForAnnotation, "cp-0")(claim)
	s.create(claim)
	address := s.bind(claim)

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))

	s.expectDevices("cp-0", injected(harness.StaticDevice(), address.IP+"/24"))
	s.settled("cp-0")
	if after, err := s.claim("cp-0"); err != nil || after.GetUID() != claim.UID {
		t.Errorf("got claim %s (%v), want %s as it was", after.GetUID(), err, claim.UID)
	}
}

func TestClaimInDeletionIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	claim := harness.Claim(s.ns, "cp-0-0", harness.DefaultPool)
	harness.WithFinalizer(hold)(claim)
	s.create(harness.Pool(s.ns), claim)
	s.bind(claim)
	s.delete(claim)

	s.denyMachine(claimInDeletion(harness.OfMetal3), "cp-0", harness.WithPool(harness.DefaultPool))

	s.dropFinalizer(claim, hold)
	s.gone(claim)
	s.eventually("the name to be free", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	})
}

// A VM outlives its machine when somebody takes CAPV's finalizer off.
func TestNameOfAMachineWhoseVMStillExistsIsDeniedQuickly(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		machine := s.asks(f, "cp-0")
		s.create(machine)
		ip := s.settled("cp-0")
		vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(hold))
		s.create(vm)
		s.delete(machine)
		s.gone(machine)
		if f.Provider.Traits().KeepsFinalizedClaims {
			s.claimGoing("cp-0")
		} else {
			s.noClaims()
		}

		start := time.Now()
		s.denyMachine(claimInDeletion(f), "cp-0", f.Ask(f.PoolName))
		if took := time.Since(start); took > tries*quick {
			t.Errorf("the denials took %s, want less than %s", took, tries*quick)
		}

		s.dropFinalizer(vm, hold)
		s.gone(vm)
		s.returned(ip)
	})
}
