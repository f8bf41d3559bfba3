package integration

import (
	"context"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

const claimInDeletion = `claim "cp-0-0" of IPPool "dkp-cluster" in namespace "NAMESPACE", or its address, is still being deleted: retry when it is gone`

func TestForeignClaimOfTheNameIsDeniedAndLeftAlone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(s *scene, claim *ipamv1.IPClaim)
		denial string
	}{
		"with an owner": {
			change: func(s *scene, claim *ipamv1.IPClaim) {
				owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "owner"}}
				s.create(owner)
				harness.WithOwner(owner)(claim)
			},
			denial: `claim "cp-0-0" in namespace "NAMESPACE" exists and belongs to something else: delete it, give the machine another name, or annotate the claim with capv-static-ip.dev/for: <name of the machine>`,
		},
		"with a finalizer": {
			change: func(_ *scene, claim *ipamv1.IPClaim) { harness.WithFinalizer(hold)(claim) },
			denial: `claim "cp-0-0" in namespace "NAMESPACE" exists and belongs to something else: delete it, give the machine another name, or annotate the claim with capv-static-ip.dev/for: <name of the machine>`,
		},
		"for another pool": {
			change: func(s *scene, claim *ipamv1.IPClaim) {
				s.create(harness.Pool(s.ns, harness.PoolNamed("other"), harness.PoolRange("10.16.56.200", "10.16.56.201")))
				claim.Spec.Pool.Name = "other"
			},
			denial: `claim "cp-0-0" in namespace "NAMESPACE" exists and is for IPPool "other", not for IPPool "dkp-cluster": ` +
				`delete it, or name that pool in label cluster.x-k8s.io/ip-pool-name of the VSphereMachine`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			claim := harness.Claim(s.ns, "cp-0-0", harness.DefaultPool)
			s.create(harness.Pool(s.ns))
			test.change(s, claim)
			s.create(claim)
			s.bind(claim)

			s.denyMachine(test.denial, "cp-0", harness.WithPool(harness.DefaultPool))

			after := &ipamv1.IPClaim{}
			if err := s.env.Client.Get(t.Context(), s.key("cp-0-0"), after); err != nil {
				t.Fatal(err)
			}
			expectSame(s, "the claim that is not ours", after, claim)
		})
	}
}

// bind waits until metal3 has bound a claim, and reads it as it then stays.
func (s *scene) bind(claim *ipamv1.IPClaim) *ipamv1.IPAddress {
	s.Helper()
	address, err := harness.WaitBound(s.Context(), s.env.Client, claim, harness.Soon)
	if err != nil {
		s.Fatal(err)
	}
	return address
}

func TestForeignClaimThatIsOfferedToTheMachineIsTakenOver(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.bind(s.claimOf("somebody"))
	claim := harness.Claim(s.ns, "cp-0-0", harness.DefaultPool)
	harness.WithAnnotation(ipam.ForAnnotation, "cp-0")(claim)
	s.create(claim)
	address := s.bind(claim)

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))

	s.expectDevices("cp-0", injected(harness.StaticDevice(), string(address.Spec.Address)+"/24"))
	s.settled("cp-0")
	if after, err := s.claim("cp-0"); err != nil || after.UID != claim.UID {
		t.Errorf("got claim %s (%v), want %s as it was", after.UID, err, claim.UID)
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

	s.denyMachine(claimInDeletion, "cp-0", harness.WithPool(harness.DefaultPool))

	s.dropFinalizer(claim, hold)
	s.gone(claim)
	s.eventually("the name to be free", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	})
}

// A VM outlives its machine when somebody takes CAPV's finalizer off.
func TestNameOfAMachineWhoseVMStillExistsIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns), harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	ip := s.settled("cp-0")
	vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(hold))
	s.create(vm)
	machine := s.machine("cp-0")
	s.delete(machine)
	s.gone(machine)
	s.claimGoing("cp-0")

	s.denyMachine(claimInDeletion, "cp-0", harness.WithPool(harness.DefaultPool))

	s.dropFinalizer(vm, hold)
	s.gone(vm)
	s.returned(ip)
}

// claimOf makes a claim as somebody else would.
func (s *scene) claimOf(name string) *ipamv1.IPClaim {
	s.Helper()
	claim := harness.Claim(s.ns, name, harness.DefaultPool)
	s.create(claim)
	return claim
}
