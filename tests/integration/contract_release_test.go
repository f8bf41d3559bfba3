package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// waitingClaim is another's claim on the default in-cluster pool, which is bound
// as soon as the pool has an address.
func (s *scene) waitingClaim(name string) *capiipamv1.IPAddressClaim {
	s.Helper()
	claim := harness.AddressClaim(s.ns, name, harness.InClusterPoolKind, harness.DefaultInClusterPool)
	s.create(claim)
	return claim
}

// isUnbound returns an error if another's claim has an address.
func (s *scene) isUnbound(claim *capiipamv1.IPAddressClaim) error {
	if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		return err
	}
	if name := claim.Status.AddressRef.Name; name != "" {
		return fmt.Errorf("claim %s has address %s", claim.Name, name)
	}
	return nil
}

// boundTo waits until another's claim has this address.
func (s *scene) boundTo(claim *capiipamv1.IPAddressClaim, ip string) {
	s.Helper()
	address, err := harness.WaitAddress(s.Context(), s.env.Client, claim, harness.Soon)
	if err != nil {
		s.Fatal(err)
	}
	if address.Spec.Address != ip {
		s.Errorf("claim %s has %s, want %s", claim.Name, address.Spec.Address, ip)
	}
}

// The in-cluster provider frees an address as soon as its claim goes.
func TestInClusterAddressIsHeldUntilCAPVLetsGoOfTheMachine(t *testing.T) {
	t.Parallel()
	for _, policy := range []metav1.DeletionPropagation{
		metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan,
	} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.inClusterPool(harness.InClusterAddresses(inClusterFirst))
			machine := s.inClusterMachine("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
			s.create(machine)
			ip := s.inClusterSettled("cp-0")

			s.delete(machine, client.PropagationPolicy(policy))
			next := s.waitingClaim("next")
			s.consistently("the address is held", func(context.Context) error {
				return errors.Join(s.isInClusterProtected(ip), s.isUnbound(next))
			})
			s.refused(s.inClusterMachine("cp-1"), "is exhausted")
			s.dropFinalizer(machine, harness.MachineFinalizer)

			s.gone(machine)
			s.boundTo(next, ip)
			if claims := s.addressClaims(); len(claims) != 1 {
				t.Errorf("%d claims are left, want only the test's own", len(claims))
			}
		})
	}
}

func TestInClusterMachineWithoutVMIsReleasedAtOnce(t *testing.T) {
	t.Parallel()
	for _, policy := range []metav1.DeletionPropagation{
		metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan,
	} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.inClusterPool()
			machine := s.inClusterMachine("cp-0")
			s.create(machine)
			ip := s.inClusterSettled("cp-0")

			s.delete(machine, client.PropagationPolicy(policy))

			s.gone(machine)
			s.inClusterReturned(ip)
			s.noClaims()
		})
	}
}

func TestClaimOfALivingMachineDeletedByHandDoesNotFreeItsInClusterAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.89"))
	machine := s.inClusterMachine("cp-0")
	s.create(machine)
	ip := s.inClusterSettled("cp-0")
	claim, err := s.addressClaim("cp-0", 0)
	if err != nil {
		t.Fatal(err)
	}

	s.delete(claim)
	s.gone(claim)

	s.boundTo(s.waitingClaim("second"), inClusterSecond)
	third := s.waitingClaim("third")
	s.eventually("the dead claim to be no owner any more", func(context.Context) error { return s.isNoOwner(claim, ip) })
	s.consistently("the address is kept, and nothing else is claimed", func(context.Context) error {
		if claims := s.addressClaims(); len(claims) != 2 {
			return fmt.Errorf("there are %d claims, want only the test's own", len(claims))
		}
		return errors.Join(s.isInClusterProtected(ip), s.isUnbound(third))
	})
	s.delete(machine)
	s.gone(machine)
	s.boundTo(third, ip)
}

// isNoOwner returns an error if an address is owned by an object, or missing.
func (s *scene) isNoOwner(object client.Object, ip string) error {
	address, err := s.ipAddress(ip)
	if err != nil {
		return err
	}
	for _, owner := range address.OwnerReferences {
		if owner.UID == object.GetUID() {
			return fmt.Errorf("address %s is owned by %s %s", address.Name, owner.Kind, owner.Name)
		}
	}
	return nil
}

func TestVirtualMachineKeepsTheInClusterAddressOfItsMachine(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(*scene, *capvv1.VSphereMachine){
		"let go": func(s *scene, machine *capvv1.VSphereMachine) {
			s.delete(machine)
			s.dropFinalizer(machine, harness.MachineFinalizer)
		},
		"finalizers stripped by hand": func(s *scene, machine *capvv1.VSphereMachine) {
			s.delete(machine)
			s.change(machine, func() { machine.Finalizers = nil })
		},
		"deleted in the foreground": func(s *scene, machine *capvv1.VSphereMachine) {
			s.delete(machine, client.PropagationPolicy(metav1.DeletePropagationForeground))
			s.dropFinalizer(machine, harness.MachineFinalizer)
		},
		// The garbage collector takes no owner off an address that is going, so
		// that the claim waits for it. The machine waits for neither.
		"deleted in the foreground after its address": func(s *scene, machine *capvv1.VSphereMachine) {
			address, err := s.ipAddress(s.ip(machine.Name))
			if err != nil {
				s.Fatal(err)
			}
			s.delete(address)
			s.delete(machine, client.PropagationPolicy(metav1.DeletePropagationForeground))
			s.dropFinalizer(machine, harness.MachineFinalizer)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.89"))
			machine := s.inClusterMachine("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
			s.create(machine)
			ip := s.inClusterSettled("cp-0")
			vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(vmFinalizer))
			s.create(vm)

			remove(s, machine)
			s.gone(machine)
			second, third := s.waitingClaim("second"), s.waitingClaim("third")
			s.boundTo(second, inClusterSecond)
			s.consistently("the VM's address is protected", func(context.Context) error {
				return errors.Join(s.isInClusterProtected(ip), s.isUnbound(third))
			})

			s.gone(s.deleted(vm, vmFinalizer))
			s.boundTo(third, ip)
			s.gone(harness.AddressClaim(s.ns, "cp-0-0", harness.InClusterPoolKind, harness.DefaultInClusterPool))
		})
	}
}

func TestInClusterClaimOfAMachineThatWasRejectedLaterIsReaped(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()
	s.rejectMarkedMachines()

	s.refused(s.inClusterMachine("lost", harness.WithLabel(rejectedLabel, "")), "rejected by the test")

	var last ipam.Stamp
	s.within(gracePeriod+harness.Soon, "the claim without a machine to be reaped", func(context.Context) error {
		claim, err := s.addressClaim("lost", 0)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		last, err = ipam.StampOf(claim)
		return errors.Join(err, fmt.Errorf("it exists, deleted at %v", claim.DeletionTimestamp))
	})
	if age := time.Since(last.Time); age < gracePeriod {
		t.Errorf("the claim was reaped %s after its last use, want no less than %s", age, gracePeriod)
	}
	s.inClusterReturned(inClusterFirst)
}

func TestDeletedNamespaceWithAnInClusterPoolGoesAway(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := s.inClusterPool()
	held := s.inClusterMachine("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.create(held, s.inClusterMachine("cp-1"), s.inClusterMachine("cp-2"))
	for _, name := range []string{"cp-0", "cp-1", "cp-2"} {
		s.inClusterSettled(name)
	}
	ip := s.ip("cp-0")

	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	s.delete(namespace)
	s.eventually("all machines but one to be gone", func(ctx context.Context) error {
		list := &capvv1.VSphereMachineList{}
		if err := s.env.Client.List(ctx, list, client.InNamespace(s.ns)); err != nil {
			return err
		}
		if len(list.Items) != 1 || len(s.allClaims()) > 1 {
			return fmt.Errorf("%d machines and %d claims are left", len(list.Items), len(s.allClaims()))
		}
		return nil
	})
	if err := s.isInClusterProtected(ip); err != nil {
		t.Errorf("the address of the machine that CAPV holds: %v", err)
	}
	s.dropFinalizer(held, harness.MachineFinalizer)
	// The provider refuses the deletion of a pool in use, and the namespace
	// controller then looks again ever more rarely.
	if err := harness.WaitGone(t.Context(), s.env.Client, pool, 3*harness.Soon); err != nil {
		t.Error(err)
	}
	if err := harness.WaitGone(t.Context(), s.env.Client, namespace, 3*harness.Soon); err != nil {
		t.Fatal(err)
	}
}

// Each of the two was claimed by its own API, and each is given back by it.
func TestMachineWithAddressesOfTwoProvidersIsReleased(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.inClusterPool()
	machine := harness.Machine(s.ns, "cp-0", withPoolOf("0", harness.DefaultPool), withPoolOf("1", inClusterRef),
		harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()), harness.WithFinalizer(harness.MachineFinalizer))
	s.create(machine)
	s.eventually("both claims to be adopted", func(context.Context) error {
		claim, err := s.claim("cp-0")
		other, otherErr := s.addressClaim("cp-0", 1)
		if err := errors.Join(err, otherErr); err != nil {
			return err
		}
		uid := string(s.machine("cp-0").UID)
		if controllerOf(claim) != uid || controllerOf(other) != uid {
			return fmt.Errorf("their controllers are %q and %q", controllerOf(claim), controllerOf(other))
		}
		return errors.Join(s.isProtected(firstIP), s.isInClusterProtected(inClusterFirst))
	})

	s.delete(machine)
	s.dropFinalizer(machine, harness.MachineFinalizer)

	s.gone(machine)
	s.returned(firstIP)
	s.inClusterReturned(inClusterFirst)
	s.noClaims()
}

func TestLostMarksOfAnInClusterMachineComeBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterWith(harness.WithAnnotation(nameservers, "10.16.57.10")))
	machine := s.inClusterMachine("cp-0")
	s.create(machine)
	ip := s.inClusterSettled("cp-0")
	text := machine.Annotations[ipam.BindingsAnnotation]

	s.change(machine, func() {
		machine.Finalizers = nil
		delete(machine.Annotations, ipam.BindingsAnnotation)
	})

	s.eventually("the marks to come back", func(context.Context) error { return s.isMarked("cp-0", ip) })
	if got := s.machine("cp-0").Annotations[ipam.BindingsAnnotation]; got != text {
		t.Errorf("the annotation came back as\n%s\nwant\n%s", got, text)
	}
}
