package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// fromAdapter makes a machine as the static IP adapter left it: its address on
// the device, and a claim of the machine's name that it owns in a version of the
// API that is not served any more.
func (s *scene) fromAdapter(name string, options ...harness.Option) *capvv1.VSphereMachine {
	s.Helper()
	claim := harness.Claim(s.ns, ipam.ClaimName(name, ipam.Slot{Device: 0}), harness.DefaultPool)
	s.create(claim)
	address, err := harness.WaitBound(s.Context(), s.env.Client, claim, harness.Soon)
	if err != nil {
		s.Fatal(err)
	}
	device := harness.WithDevices(harness.FixedDevice(address.IP + "/24"))
	machine := harness.Machine(s.ns, name, append([]harness.Option{device}, options...)...)
	s.create(machine)
	s.change(claim, func() {
		claim.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: capvv1.GroupName + "/v1alpha4", Kind: "VSphereMachine", Name: name, UID: machine.UID,
		}}
	})
	return machine
}

// isMarked returns an error unless the machine carries our finalizer and says
// that it holds the address.
func (s *scene) isMarked(name, ip string) error {
	machine := s.machine(name)
	if !slices.Contains(machine.Finalizers, ipam.ReleaseFinalizer) {
		return fmt.Errorf("machine %s has finalizers %v, want ours", name, machine.Finalizers)
	}
	bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	if err != nil {
		return err
	}
	if len(bindings.Bindings) != 1 || bindings.Bindings[0].Address.Addr().String() != ip {
		return fmt.Errorf("machine %s says that it holds %v, want %s", name, bindings.Bindings, ip)
	}
	return nil
}

func (s *scene) isFullyAdopted(name, ip string) error {
	return errors.Join(s.isMarked(name, ip), s.isAdopted(name, ip))
}

func TestMachineOfTheOldAdapterIsAdoptedAndReleased(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))

	machine := s.fromAdapter("cp-0")
	s.eventually("the machine to be adopted", func(context.Context) error { return s.isFullyAdopted("cp-0", firstIP) })

	s.delete(machine)
	s.gone(machine)
	s.returned(firstIP)
	s.noClaims()
}

// The garbage collector finds no owner in a version that is not served.
func TestClaimOfTheOldAdapterGoesWithItsMachineWithoutUs(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	machine := s.fromAdapter("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.eventually("the machine to be adopted", func(context.Context) error { return s.isFullyAdopted("cp-0", firstIP) })
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	if len(claim.GetOwnerReferences()) != 1 || claim.GetOwnerReferences()[0].APIVersion != capvv1.GroupVersion.String() {
		t.Errorf("its owners are %v, want the machine alone, in version %s", claim.GetOwnerReferences(), capvv1.GroupVersion.Version)
	}

	s.delete(machine)
	s.stripFinalizers(machine)

	s.within(2*harness.Soon, "the claim to be collected", func(context.Context) error {
		if claims := s.claims(); len(claims) > 0 {
			return fmt.Errorf("it is there, deleted at %v, with owners %v", claims[0].GetDeletionTimestamp(), claims[0].GetOwnerReferences())
		}
		return nil
	})
	s.returned(firstIP)
}

func TestClaimOfferedToAMachineIsAdopted(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	claim := harness.Claim(s.ns, "by-hand", harness.DefaultPool)
	harness.WithAnnotation(ipam.ForAnnotation, "cp-0")(claim)
	s.create(claim)
	s.bind(claim)
	machine := harness.Machine(s.ns, "cp-0", harness.WithDevices(harness.FixedDevice(firstIP+"/24")))
	s.create(machine)

	s.eventually("the claim to be adopted", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(claim), claim); err != nil {
			return err
		}
		if controllerOf(claim) != string(machine.UID) {
			return fmt.Errorf("its owners are %v", claim.OwnerReferences)
		}
		return errors.Join(s.isMarked("cp-0", firstIP), s.isProtected(firstIP))
	})
	s.delete(machine)
	s.gone(machine)
	s.returned(firstIP)
}

// A name may be alike by chance, and the address be reserved for something else.
func TestClaimOfAnybodyIsNotAdopted(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	claim := harness.Claim(s.ns, "cp-0-0", harness.DefaultPool)
	s.create(claim)
	if _, err := harness.WaitBound(t.Context(), s.env.Client, claim, harness.Soon); err != nil {
		t.Fatal(err)
	}

	other := harness.Machine(s.ns, "cp-0", harness.WithDevices(harness.FixedDevice(firstIP+"/24")))
	s.create(other)
	s.fromAdapter("witness")
	s.eventually("the other machine to be adopted", func(context.Context) error { return s.isFullyAdopted("witness", secondIP) })

	s.consistently("machine and claim stay strangers", func(context.Context) error {
		claim, err := s.claim("cp-0")
		if err != nil {
			return err
		}
		if len(claim.GetOwnerReferences()) > 0 || ipam.MachineOf(claim) != "" || len(s.machine("cp-0").Finalizers) > 0 {
			return fmt.Errorf("claim with owners %v and annotations %v, machine with finalizers %v",
				claim.GetOwnerReferences(), claim.GetAnnotations(), s.machine("cp-0").Finalizers)
		}
		return nil
	})
	// It is another's, and stays when the machine goes.
	s.delete(other)
	s.gone(other)
	s.consistently("the claim stays", func(context.Context) error {
		_, err := s.address(firstIP)
		return err
	})
}

func TestLostMarksComeBack(t *testing.T) {
	ways := map[string]func(*capvv1.VSphereMachine){
		"finalizer":  func(m *capvv1.VSphereMachine) { m.Finalizers = nil },
		"annotation": func(m *capvv1.VSphereMachine) { delete(m.Annotations, ipam.BindingsAnnotation) },
		"both": func(m *capvv1.VSphereMachine) {
			m.Finalizers = nil
			delete(m.Annotations, ipam.BindingsAnnotation)
		},
	}
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, lose := range ways {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.pool(f)
				machine := s.asks(f, "cp-0")
				s.create(machine)
				ip := s.settled("cp-0")
				text := machine.Annotations[ipam.BindingsAnnotation]

				s.change(machine, func() { lose(machine) })
				s.eventually("the marks to come back", func(context.Context) error { return s.isFullyAdopted("cp-0", ip) })
				if got := s.machine("cp-0").Annotations[ipam.BindingsAnnotation]; got != text {
					t.Errorf("the annotation came back as\n%s\nwant\n%s", got, text)
				}

				s.delete(machine)
				s.gone(machine)
				s.returned(ip)
				s.noClaims()
			})
		}
	})
}

func TestNothingIsAdoptedWhileTheClusterIsPaused(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	cluster.Spec.Paused = new(true)
	s.create(cluster, harness.Pool(s.ns))

	s.fromAdapter("cp-0")
	s.fromAdapter("witness", harness.WithCluster(""))
	s.eventually("the machine without a Cluster to be adopted", func(context.Context) error { return s.isFullyAdopted("witness", secondIP) })
	s.consistently("the machine of the paused Cluster is not adopted", func(context.Context) error {
		claim, err := s.claim("cp-0")
		if err != nil {
			return err
		}
		machine := s.machine("cp-0")
		if controllerOf(claim) != "" || len(machine.Finalizers) > 0 || machine.Annotations[ipam.BindingsAnnotation] != "" {
			return fmt.Errorf("claim with owners %v, machine with finalizers %v", claim.GetOwnerReferences(), machine.Finalizers)
		}
		return nil
	})

	s.change(cluster, func() { cluster.Spec.Paused = new(false) })
	s.eventually("the machine to be adopted", func(context.Context) error { return s.isFullyAdopted("cp-0", firstIP) })
}

func TestClusterThatIsPausedOrGoneDoesNotHoldUpARelease(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*scene, *clusterv1.Cluster){
		"paused": func(s *scene, cluster *clusterv1.Cluster) {
			s.change(cluster, func() { cluster.Spec.Paused = new(true) })
		},
		"gone": func(s *scene, cluster *clusterv1.Cluster) {
			s.delete(cluster)
			s.gone(cluster)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			cluster := harness.Cluster(s.ns, harness.DefaultCluster)
			machine := s.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
			s.create(harness.Pool(s.ns), cluster, machine)
			ip := s.settled("cp-0")

			stop(s, cluster)
			s.delete(machine)
			s.dropFinalizer(machine, harness.MachineFinalizer)
			s.gone(machine)
			s.returned(ip)
			s.noClaims()
		})
	}
}

func TestDeletionForAMoveIsNotARelease(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	machine, witness := s.pooled("cp-0"), s.pooled("witness")
	s.create(harness.Pool(s.ns), machine, witness)
	ip := s.settled("cp-0")
	s.settled("witness")

	// clusterctl replaces the whole annotation map.
	s.change(machine, func() { machine.Annotations = map[string]string{clusterctlv1.DeleteForMoveAnnotation: ""} })
	s.delete(machine)
	s.delete(witness)
	s.gone(witness)
	s.consistently("the moved machine keeps finalizer, claim and address", func(context.Context) error {
		if got := s.machine("cp-0").Finalizers; !slices.Contains(got, ipam.ReleaseFinalizer) {
			return fmt.Errorf("the machine's finalizers are %v", got)
		}
		return s.isHeld("cp-0", ip)
	})

	// Nothing else held it up.
	s.annotate(machine, clusterctlv1.DeleteForMoveAnnotation, nil)
	s.gone(machine)
	s.returned(ip)
	s.noClaims()
}
