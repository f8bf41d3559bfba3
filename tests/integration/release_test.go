package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// firstIP and secondIP are what the first two claims on a pool get here.
const (
	firstIP  = "10.16.56.88"
	secondIP = "10.16.56.89"
)

// vmFinalizer is CAPV's own on a VSphereVM: it goes when the VM is gone.
const vmFinalizer = "vspherevm.infrastructure.cluster.x-k8s.io"

// pooled is a machine that asks for an address of the default pool.
func (s *scene) pooled(name string, options ...harness.Option) *capvv1.VSphereMachine {
	return harness.Machine(s.ns, name, append([]harness.Option{harness.WithPool(harness.DefaultPool)}, options...)...)
}

func TestAddressIsHeldUntilCAPVLetsGoOfTheMachine(t *testing.T) {
	t.Parallel()
	for _, policy := range []metav1.DeletionPropagation{
		metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan,
	} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.create(harness.Pool(s.ns, harness.PoolRange(firstIP, firstIP)))
			machine := s.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
			s.create(machine)
			ip := s.settled("cp-0")

			s.delete(machine, client.PropagationPolicy(policy))
			held := func(context.Context) error { return s.isHeld("cp-0", ip) }
			if policy == metav1.DeletePropagationForeground {
				// The garbage collector may begin with the claim; the address stays.
				held = func(context.Context) error { return s.isProtected(ip) }
			}
			s.consistently("the address is held", held)
			s.refused(s.pooled("cp-1"), "is exhausted")
			if !s.machine("cp-0").DeletionTimestamp.IsZero() {
				s.dropFinalizer(machine, harness.MachineFinalizer)
			}

			s.gone(machine)
			s.returned(ip)
			s.noClaims()
			s.create(s.pooled("cp-1"))
			if got := s.ip("cp-1"); got != ip {
				t.Errorf("the next machine got %s, want the address that came back, %s", got, ip)
			}
		})
	}
}

// CAPV lets go of a machine without an owner Machine before its VM is gone;
// and people strip finalizers.
func TestVirtualMachineKeepsTheAddressOfItsMachine(t *testing.T) {
	t.Parallel()
	t.Run("let go", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.virtualMachineKeepsAddress(func(machine *capvv1.VSphereMachine) {
			s.delete(machine)
		})
	})
	t.Run("finalizers stripped by hand", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.virtualMachineKeepsAddress(func(machine *capvv1.VSphereMachine) {
			s.delete(machine)
			s.change(machine, func() { machine.Finalizers = nil })
		})
	})
	t.Run("deleted in the foreground", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.virtualMachineKeepsAddress(func(machine *capvv1.VSphereMachine) {
			s.delete(machine, client.PropagationPolicy(metav1.DeletePropagationForeground))
		})
	})
}

func (s *scene) virtualMachineKeepsAddress(remove func(*capvv1.VSphereMachine)) {
	s.Helper()
	s.create(harness.Pool(s.ns, harness.PoolRange(firstIP, secondIP)))
	machine := s.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.create(machine)
	ip := s.settled("cp-0")
	vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(vmFinalizer))
	s.create(vm)

	remove(machine)
	if controllerutil.ContainsFinalizer(machine, harness.MachineFinalizer) {
		s.dropFinalizer(machine, harness.MachineFinalizer)
	}
	s.gone(machine)
	s.claimGoing("cp-0")
	s.consistently("the VM's address is protected", func(context.Context) error { return s.isProtected(ip) })
	// No other machine gets it. One of the same name gets none at all: metal3
	// would bind its claim to the address of the former one.
	s.refused(s.pooled("cp-0"), "is still being deleted")
	s.create(s.pooled("cp-1"))
	if got := s.ip("cp-1"); got != secondIP {
		s.Errorf("the next machine got %s, want %s: the VM uses %s", got, secondIP, ip)
	}
	s.refused(s.pooled("cp-2"), "is exhausted")
	if err := s.isProtected(ip); err != nil {
		s.Errorf("the VM's address after the name was used again: %v", err)
	}

	s.gone(s.deleted(vm, vmFinalizer))
	s.returned(ip)
	s.gone(harness.Claim(s.ns, "cp-0-0", harness.DefaultPool))
	s.create(s.pooled("cp-0"))
	if got := s.ip("cp-0"); got != ip {
		s.Errorf("the next machine of the name got %s, want the address that came back, %s", got, ip)
	}
}

// claimGoing waits until the claim of a machine is being deleted. It stays, and
// with it its address, for as long as a machine or its VM uses that.
func (s *scene) claimGoing(machine string) {
	s.Helper()
	s.eventually("the claim of "+machine+" to be deleted", func(context.Context) error {
		claim, err := s.claim(machine)
		if err == nil && claim.DeletionTimestamp.IsZero() {
			err = errors.New("nobody has deleted it")
		}
		return err
	})
}

// deleted deletes an object and takes off its last finalizer.
func (s *scene) deleted(object client.Object, finalizer string) client.Object {
	s.Helper()
	if err := s.env.Client.Delete(s.Context(), object); client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	s.dropFinalizer(object, finalizer)
	return object
}

func TestMachineWithoutAVirtualMachineIsReleasedAfterItsFinalizersWereStripped(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	machine := s.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.create(machine)
	ip := s.settled("cp-0")

	s.delete(machine)
	s.change(machine, func() { machine.Finalizers = nil })

	s.gone(machine)
	s.returned(ip)
	s.noClaims()
}

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

	// While the machine is paused, the claim is not let go.
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
	s.eventually("the claim to come back with its address", func(context.Context) error { return s.isRebuilt("cp-0", ip, claim) })
	if note := s.told("cp-0", "ClaimRebuilt"); !strings.Contains(note, ip) {
		t.Errorf("event ClaimRebuilt says %q, want it to name %s", note, ip)
	}

	// The same again at full speed.
	rebuilt, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	s.delete(rebuilt)
	s.eventually("the claim to come back once more", func(context.Context) error { return s.isRebuilt("cp-0", ip, rebuilt) })

	s.delete(machine)
	s.gone(machine)
	s.returned(ip)
	s.create(s.pooled("cp-2"))
	if got := s.ip("cp-2"); got != ip {
		t.Errorf("the third machine got %s, want the address that came back, %s", got, ip)
	}
}

// isRebuilt returns an error unless a claim other than the former one is bound
// to the machine's address, which has no owner that does not exist.
func (s *scene) isRebuilt(machine, ip string, former client.Object) error {
	claim, err := s.claim(machine)
	if err != nil {
		return err
	}
	if claim.UID == former.GetUID() || !claim.DeletionTimestamp.IsZero() {
		return fmt.Errorf("claim %s is the former one, or being deleted", claim.Name)
	}
	if err := s.isAdopted(machine, ip); err != nil {
		return err
	}
	address, err := s.address(ip)
	if err != nil {
		return err
	}
	if claim.Status.Address == nil || claim.Status.Address.Name != address.Name {
		return fmt.Errorf("claim %s is bound to %v, want %s", claim.Name, claim.Status.Address, address.Name)
	}
	if len(address.OwnerReferences) == 0 {
		return nil
	}
	for _, owner := range address.OwnerReferences {
		if owner.Name == claim.Name && owner.UID != claim.UID {
			return fmt.Errorf("address %s is owned by the former claim %s", address.Name, owner.UID)
		}
	}
	return nil
}

func TestDeletedNamespaceGoesAwayWithinSeconds(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.Pool(s.ns)
	held := s.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.create(pool, held, s.pooled("cp-1"), s.pooled("cp-2"))
	for _, name := range []string{"cp-0", "cp-1", "cp-2"} {
		s.settled(name)
	}

	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	s.delete(namespace)
	// metal3 looks at its pool for the last time while CAPV holds the machine.
	s.eventually("all machines but one to be gone", func(ctx context.Context) error {
		list := &capvv1.VSphereMachineList{}
		if err := s.env.Client.List(ctx, list, client.InNamespace(s.ns)); err != nil {
			return err
		}
		if len(list.Items) != 1 || len(s.claims()) > 1 {
			return fmt.Errorf("%d machines and %d claims are left", len(list.Items), len(s.claims()))
		}
		return nil
	})
	if err := s.isProtected(firstIP); err != nil {
		t.Errorf("the address of the machine that CAPV holds: %v", err)
	}
	s.dropFinalizer(held, harness.MachineFinalizer)
	start := time.Now()
	s.gone(pool)
	t.Logf("the pool went %s after the last machine was let go", time.Since(start))
	// The namespace controller itself looks only every 8 seconds.
	if err := harness.WaitGone(t.Context(), s.env.Client, namespace, 3*harness.Soon); err != nil {
		t.Fatal(err)
	}
}

func TestDeletedPoolGoesAwayAfterItsMachines(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.Pool(s.ns)
	held := s.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	other := s.pooled("cp-1")
	s.create(pool, held, other)
	ip := s.settled("cp-0")
	s.settled("cp-1")

	s.delete(pool)
	s.delete(other)
	s.delete(held, client.PropagationPolicy(metav1.DeletePropagationForeground))
	s.gone(other)
	s.consistently("the pool stays while an address of it is in use", func(context.Context) error {
		if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		return s.isProtected(ip)
	})
	s.dropFinalizer(held, harness.MachineFinalizer)
	s.gone(held)
	s.gone(pool)
}

func TestEventsTellWhatHappenedToTheAddress(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolRange(firstIP, firstIP)))
	machine := s.pooled("cp-0")
	s.create(machine)
	s.settled("cp-0")
	s.refused(s.pooled("cp-1"), "is exhausted")
	s.delete(machine)
	s.gone(machine)

	for _, want := range []struct{ machine, reason, text string }{
		{"cp-0", "AddressBound", firstIP},
		{"cp-0", "AddressReleased", firstIP},
		{"cp-1", string(ipam.PoolExhausted), harness.DefaultPool},
	} {
		if note := s.told(want.machine, want.reason); !strings.Contains(note, want.text) {
			t.Errorf("event %s says %q, want it to name %s", want.reason, note, want.text)
		}
	}
}
