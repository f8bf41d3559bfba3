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
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

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
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for _, policy := range policies {
			t.Run(string(policy), func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.pool(f, f.WithIPs(88, 88))
				machine := s.asks(f, "cp-0", harness.WithFinalizer(harness.MachineFinalizer))
				s.create(machine)
				ip := s.settled("cp-0")

				s.delete(machine, client.PropagationPolicy(policy))
				held := func() error { return s.isHeld("cp-0", ip) }
				if policy == metav1.DeletePropagationForeground {
					// The garbage collector may begin with the claim; the address stays.
					held = func() error { return s.isProtected(ip) }
				}
				next := s.rival(f, "next")
				s.consistently("the address is held", func(context.Context) error { return errors.Join(held(), next.hasNothing()) })
				s.refused(s.asks(f, "cp-1"), "is exhausted")
				s.dropFinalizer(machine, harness.MachineFinalizer)

				s.gone(machine)
				next.gets(ip)
				s.eventually("no claim to be left but the next one's", func(context.Context) error {
					if claims := s.claims(); len(claims) != 1 {
						return fmt.Errorf("there are %v", names(claims))
					}
					return nil
				})
			})
		}
	})
}

// policies are all ways to delete a machine.
var policies = []metav1.DeletionPropagation{
	metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan,
}

func TestMachineWithoutAVirtualMachineIsReleasedAtOnce(t *testing.T) {
	ways := map[string]func(*scene, *capvv1.VSphereMachine){
		"finalizers stripped by hand": func(s *scene, machine *capvv1.VSphereMachine) {
			s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })
			s.delete(machine)
			s.change(machine, func() { machine.Finalizers = nil })
		},
	}
	for _, policy := range policies {
		ways[string(policy)] = func(s *scene, machine *capvv1.VSphereMachine) { s.delete(machine, client.PropagationPolicy(policy)) }
	}
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, remove := range ways {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.pool(f)
				machine := s.asks(f, "cp-0")
				s.create(machine)
				ip := s.settled("cp-0")

				remove(s, machine)

				s.gone(machine)
				s.returned(ip)
				s.noClaims()
			})
		}
	})
}

// CAPV lets go of a machine without an owner Machine before its VM is gone;
// and people strip finalizers.
func TestVirtualMachineKeepsTheAddressOfItsMachine(t *testing.T) {
	letGo := func(s *scene, machine *capvv1.VSphereMachine, options ...client.DeleteOption) {
		s.delete(machine, options...)
		s.dropFinalizer(machine, harness.MachineFinalizer)
	}
	ways := map[string]func(*scene, *capvv1.VSphereMachine){
		"let go": func(s *scene, machine *capvv1.VSphereMachine) { letGo(s, machine) },
		"finalizers stripped by hand": func(s *scene, machine *capvv1.VSphereMachine) {
			s.delete(machine)
			s.change(machine, func() { machine.Finalizers = nil })
		},
		"deleted in the foreground": func(s *scene, machine *capvv1.VSphereMachine) {
			letGo(s, machine, client.PropagationPolicy(metav1.DeletePropagationForeground))
		},
	}
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, remove := range ways {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				newScene(t, shared).virtualMachineKeepsAddress(f, remove)
			})
		}
	})
	// The garbage collector takes no owner off an address that is going, so that the
	// claim waits for it. The machine waits for neither.
	t.Run("of the in-cluster provider, deleted in the foreground after its address", func(t *testing.T) {
		t.Parallel()
		newScene(t, shared).virtualMachineKeepsAddress(harness.OfInCluster, func(s *scene, machine *capvv1.VSphereMachine) {
			address, err := s.address(s.ip(machine.Name))
			if err != nil {
				s.Fatal(err)
			}
			s.delete(address)
			letGo(s, machine, client.PropagationPolicy(metav1.DeletePropagationForeground))
		})
	})
}

func (s *scene) virtualMachineKeepsAddress(f harness.Fixture, remove func(*scene, *capvv1.VSphereMachine)) {
	s.Helper()
	s.pool(f, f.WithIPs(88, 89))
	machine := s.asks(f, "cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.create(machine)
	ip := s.settled("cp-0")
	vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(vmFinalizer))
	s.create(vm)

	remove(s, machine)
	s.gone(machine)
	if f.Provider.Traits().KeepsFinalizedClaims {
		s.claimGoing("cp-0")
	}
	s.consistently("the VM's address is protected", func(context.Context) error { return s.isProtected(ip) })
	// No other machine gets it. One of the same name gets none at all: metal3
	// would bind its claim to the address of the former one.
	s.refused(s.asks(f, "cp-0"), "is still being deleted")
	s.create(s.asks(f, "cp-1"))
	if got, want := s.ip("cp-1"), f.IP(89); got != want {
		s.Errorf("the next machine got %s, want %s: the VM uses %s", got, want, ip)
	}
	s.refused(s.asks(f, "cp-2"), "is exhausted")
	next := s.rival(f, "cp-0")
	s.consistently("the VM's address is protected after the name was used again", func(context.Context) error {
		return errors.Join(s.isProtected(ip), next.hasNothing())
	})

	s.gone(s.deleted(vm, vmFinalizer))
	s.gone(f.Claim(s.ns, "cp-0-0", f.PoolName))
	next.gets(ip)
}

// claimGoing waits until the claim of a machine is being deleted. It stays, and
// with it its address, for as long as a machine or its VM uses that.
func (s *scene) claimGoing(machine string) {
	s.Helper()
	s.eventually("the claim of "+machine+" to be deleted", func(context.Context) error {
		claim, err := s.claim(machine)
		if err == nil && claim.GetDeletionTimestamp().IsZero() {
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

func TestDeletedNamespaceGoesAway(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f)
		held := s.asks(f, "cp-0", harness.WithFinalizer(harness.MachineFinalizer))
		s.create(held, s.asks(f, "cp-1"), s.asks(f, "cp-2"))
		for _, name := range []string{"cp-0", "cp-1", "cp-2"} {
			s.settled(name)
		}
		ip := s.ip("cp-0")

		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
		s.delete(namespace)
		// metal3 looks at its pool for the last time while CAPV holds the machine.
		s.eventually("all machines but one to be gone", func(ctx context.Context) error {
			list := &capvv1.VSphereMachineList{}
			if err := s.env.Client.List(ctx, list, client.InNamespace(s.ns)); err != nil {
				return err
			}
			if claims := s.claims(); len(list.Items) != 1 || len(claims) > 1 {
				return fmt.Errorf("%d machines and %d claims are left", len(list.Items), len(claims))
			}
			return nil
		})
		if err := s.isProtected(ip); err != nil {
			t.Errorf("the address of the machine that CAPV holds: %v", err)
		}
		s.dropFinalizer(held, harness.MachineFinalizer)
		// The in-cluster provider refuses the deletion of a pool in use, and the
		// namespace controller then looks again ever more rarely.
		within := harness.Soon
		if f.Is(harness.OfInCluster) {
			within *= 3
		}
		start := time.Now()
		if err := harness.WaitGone(t.Context(), s.env.Client, pool, within); err != nil {
			t.Error(err)
		}
		t.Logf("the pool went %s after the last machine was let go", time.Since(start))
		// The namespace controller itself looks only every 8 seconds.
		if err := harness.WaitGone(t.Context(), s.env.Client, namespace, 3*harness.Soon); err != nil {
			t.Fatal(err)
		}
	})
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
		other, otherErr := s.deviceClaim("cp-0", 1)
		if err := errors.Join(err, otherErr); err != nil {
			return err
		}
		uid := string(s.machine("cp-0").UID)
		if controllerOf(claim) != uid || controllerOf(other) != uid {
			return fmt.Errorf("their controllers are %q and %q", controllerOf(claim), controllerOf(other))
		}
		return errors.Join(s.isProtected(firstIP), s.isProtected(inClusterFirst))
	})

	s.delete(machine)
	s.dropFinalizer(machine, harness.MachineFinalizer)

	s.gone(machine)
	s.returned(firstIP)
	s.returned(inClusterFirst)
	s.noClaims()
}
