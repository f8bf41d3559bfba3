package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/tests/harness"
)

const (
	// defaultPoolShortage is what an owner is annotated with whose machines the
	// default pool refused.
	defaultPoolShortage = "IPPool.ipam.metal3.io/dkp-cluster"
	// usersAnnotation stands for all that others write on an owner.
	usersAnnotation = "example.org/note"
)

// machineSet makes a MachineSet. The tests play its controller: nothing else
// makes machines for it.
func (s *scene) machineSet(name string, options ...harness.Option) client.Object {
	s.Helper()
	set := harness.MachineSet(s.ns, name, "workers", append(options, harness.WithAnnotation(usersAnnotation, "keep"))...)
	s.create(set)
	return set
}

// controlPlane is machineSet for a KubeadmControlPlane.
func (s *scene) controlPlane(name string) client.Object {
	s.Helper()
	owner := harness.ControlPlaneOwner(s.ns, name, "cp", harness.WithAnnotation(usersAnnotation, "keep"))
	s.create(owner)
	return owner
}

// refusedBy reads what the owner is annotated with.
func (s *scene) refusedBy(owner client.Object) (string, bool) {
	s.Helper()
	if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(owner), owner); err != nil {
		s.Fatal(err)
	}
	if note := owner.GetAnnotations()[usersAnnotation]; note != "keep" {
		s.Errorf("the user's own annotation of %s is %q", owner.GetName(), note)
	}
	value, ok := owner.GetAnnotations()[ipam.RefusedByAnnotation]
	return value, ok
}

// isWaiting checks that the owner is annotated with what pools do not have.
func (s *scene) isWaiting(owner client.Object, want string) error {
	s.Helper()
	if got, ok := s.refusedBy(owner); !ok || got != want {
		return fmt.Errorf("%s is annotated with %q, want %q", owner.GetName(), got, want)
	}
	return nil
}

// shortage is what an owner is annotated with whose machines the default pool refuses
// as it is now. Where no pool of its name can be used, one of either kind would do.
func (s *scene) shortage() string {
	s.Helper()
	pool := &ipamv1.IPPool{}
	err := s.env.Client.Get(s.Context(), s.key(harness.DefaultPool), pool)
	switch {
	case kube.IsAbsent(err), err == nil && !pool.DeletionTimestamp.IsZero():
		return defaultPoolShortage + ",InClusterIPPool.ipam.cluster.x-k8s.io/" + harness.DefaultPool
	case err != nil:
		s.Fatal(err)
	}
	return defaultPoolShortage
}

// isTouched checks that the annotation is gone.
func (s *scene) isTouched(owner client.Object) error {
	s.Helper()
	if got, ok := s.refusedBy(owner); ok {
		return fmt.Errorf("%s is annotated with %q", owner.GetName(), got)
	}
	return nil
}

// waiting has a machine of the owner refused, and waits until that is recorded.
func (s *scene) waiting(owner client.Object, options ...harness.Option) {
	s.Helper()
	s.denied(owner, options...)
	s.eventually("the refusal on "+owner.GetName(), func(context.Context) error { return s.isWaiting(owner, s.shortage()) })
}

func (s *scene) denied(owner client.Object, options ...harness.Option) {
	s.Helper()
	s.refused(s.pooled(owner.GetName()+"-x7k2p", append(options, harness.WithOwner(owner))...), "IPPool")
}

func (s *scene) touched(owner client.Object) {
	s.Helper()
	s.eventually(owner.GetName()+" to be touched", func(context.Context) error { return s.isTouched(owner) })
}

// fullPool makes a pool with so many addresses, and machines that hold them all.
// A machine that a busy provider was too slow for is created again.
func (s *scene) fullPool(size int) {
	s.Helper()
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", fmt.Sprintf("10.16.56.%d", 87+size))))
	for i := range size {
		holder := s.pooled(fmt.Sprintf("holder-%d", i))
		s.within(patience, holder.Name+" to be created", func(ctx context.Context) error {
			return client.IgnoreAlreadyExists(s.env.Client.Create(ctx, holder))
		})
	}
}

func (s *scene) free(holder int) {
	s.Helper()
	machine := s.machine(fmt.Sprintf("holder-%d", holder))
	s.delete(machine)
	s.gone(machine)
}

func TestRefusalIsToldToTheOwner(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		owner    func(s *scene) client.Object
		recorded bool
	}{
		"MachineSet": {
			owner:    func(s *scene) client.Object { return s.machineSet("owner") },
			recorded: true,
		},
		"KubeadmControlPlane": {
			owner:    func(s *scene) client.Object { return s.controlPlane("owner") },
			recorded: true,
		},
		"another kind": {
			owner: func(s *scene) client.Object {
				owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "owner",
					Annotations: map[string]string{usersAnnotation: "keep"}}}
				s.create(owner)
				return owner
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			owner := test.owner(s)

			s.denied(owner)

			gvk, err := apiutil.GVKForObject(owner, harness.Scheme)
			if err != nil {
				t.Fatal(err)
			}
			event := s.toldAbout(gvk.Kind, owner.GetName(), "PoolNotFound")
			if event.Note != s.text(poolNotFound) || event.Type != corev1.EventTypeWarning ||
				event.Regarding.UID != owner.GetUID() || event.Regarding.APIVersion != gvk.GroupVersion().String() {
				t.Errorf("got the event %+v, want a warning of the denial about %s", event, owner.GetUID())
			}
			if test.recorded {
				s.eventually("the refusal on the owner", func(context.Context) error { return s.isWaiting(owner, s.shortage()) })
			} else {
				s.consistently("nothing is written on the owner", func(context.Context) error { return s.isTouched(owner) })
			}
		})
	}
}

func TestRefusalIsWrittenOnTheOwnerOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(1)
	owner := s.machineSet("owner")
	s.waiting(owner)
	version := owner.GetResourceVersion()

	s.denyMachines(exhausted(harness.OfMetal3, "1 of 1 addresses in use"), harness.WithPool(harness.DefaultPool), harness.WithOwner(owner))

	s.consistently("the owner stays as it is", func(context.Context) error {
		if err := s.isWaiting(owner, s.shortage()); err != nil {
			return err
		}
		if owner.GetResourceVersion() != version {
			return fmt.Errorf("it was written again: %v", owner.GetManagedFields())
		}
		return nil
	})
}

// What CAPI itself owns of the object stays its own.
func TestRefusalAndTouchTakeNothingFromOtherManagers(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(1)
	owner := harness.MachineSet(s.ns, "owner", "workers", harness.WithAnnotation(usersAnnotation, "keep"))
	s.apply(owner, "capi-machinedeployment")
	before := owner.DeepCopy()

	s.waiting(owner)
	s.free(0)
	s.touched(owner)
	s.silent(owner)
	if err := s.env.Client.Get(t.Context(), client.ObjectKeyFromObject(owner), owner); err != nil {
		t.Fatal(err)
	}

	expectSame(s, "the owner's spec", owner.Spec, before.Spec)
	expectSame(s, "the owner's annotations", owner.Annotations, before.Annotations)
	s.apply(harness.MachineSet(s.ns, "owner", "workers", harness.WithAnnotation(usersAnnotation, "keep")), "capi-machinedeployment")
}

func TestDryRunTellsTheOwnerNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(1)
	owner := s.machineSet("owner")
	version := owner.GetResourceVersion()

	for i := range tries {
		machine := s.pooled(refusedName(i), harness.WithOwner(owner))
		if err := s.env.Client.Create(t.Context(), machine, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
	}

	s.consistently("the owner stays as it is", func(context.Context) error {
		if _, ok := s.refusedBy(owner); ok || owner.GetResourceVersion() != version {
			return errors.New("it was written")
		}
		return nil
	})
	if events := s.eventsAbout("MachineSet", "owner"); len(events) > 0 {
		t.Errorf("got the events %+v, want none", events)
	}
}

// Four replicas, three addresses: when a machine goes, the fourth can come.
func TestFreedAddressMakesTheOwnerTryAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(3)
	owner := s.machineSet("owner")
	s.waiting(owner)
	s.consistently("the owner is left alone while the pool is full", func(context.Context) error { return s.isWaiting(owner, s.shortage()) })

	s.free(1)
	start := time.Now()
	s.touched(owner)
	t.Logf("touched %s after the machine was gone", time.Since(start))

	s.create(s.pooled("owner-4", harness.WithOwner(owner)))
	s.denied(owner)
	s.eventually("the next refusal", func(context.Context) error { return s.isWaiting(owner, s.shortage()) })
	s.free(2)
	s.touched(owner)
}

func TestAddressAddedToThePoolMakesTheOwnerTryAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(1)
	owner := s.machineSet("owner")
	s.waiting(owner)

	pool := harness.Pool(s.ns)
	s.change(pool, func() { pool.Spec.Pools = []ipamv1.Pool{harness.Range("10.16.56.88", "10.16.56.89")} })

	s.touched(owner)
}

func TestFreedAddressTouchesOneOwnerAfterTheOther(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(2)
	var owners []client.Object
	for i := range 4 {
		owners = append(owners, s.machineSet(fmt.Sprintf("owner-%d", i)))
		s.waiting(owners[i])
	}
	stillWaiting := func() (waiting []client.Object) {
		return slices.DeleteFunc(slices.Clone(owners), func(owner client.Object) bool { return s.isTouched(owner) == nil })
	}
	left := func(want int) func(context.Context) error {
		return func(context.Context) error {
			if got := len(stillWaiting()); got != want {
				return fmt.Errorf("%d owners are waiting, want %d", got, want)
			}
			return nil
		}
	}

	s.free(0)
	s.eventually("one owner to be touched", left(3))
	s.consistently("the others are left alone", left(3))

	// The touched one needs nothing any more, so that the address stays free.
	s.eventually("another owner to be touched", left(2))
	s.create(s.pooled("taker", harness.WithOwner(owners[0])))
	if err := harness.Consistently(t.Context(), 8*watched, "the others are left alone while the pool is full", left(2)); err != nil {
		t.Fatal(err)
	}

	s.free(1)
	s.eventually("another owner to be touched", left(1))
}

func TestOwnerWaitsForAsManyAddressesAsAMachineNeeds(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(2)
	owner := s.machineSet("owner")
	s.denied(owner, harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()))
	waits := func(context.Context) error { return s.isWaiting(owner, defaultPoolShortage+":2") }
	s.eventually("the refusal on the owner", waits)

	s.free(0)
	s.consistently("the owner is left alone while one address is free", waits)

	s.free(1)
	s.touched(owner)
}

func TestPoolThatServesAgainMakesTheOwnerTryAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before, cure func(s *scene)
	}{
		"one that appears": {
			before: func(*scene) {},
			cure:   func(s *scene) { s.create(harness.Pool(s.ns)) },
		},
		"one whose Cluster appears": {
			before: func(s *scene) { s.create(poolOf(s.ns, "other")) },
			cure:   func(s *scene) { s.create(harness.Cluster(s.ns, "other")) },
		},
		"one whose Cluster is resumed": {
			before: func(s *scene) { s.create(harness.Cluster(s.ns, "other", paused), poolOf(s.ns, "other")) },
			cure: func(s *scene) {
				cluster := harness.Cluster(s.ns, "other")
				s.change(cluster, func() { cluster.Spec.Paused = nil })
			},
		},
		"one that is recreated": {
			before: func(s *scene) {
				pool := harness.Pool(s.ns, func(pool *ipamv1.IPPool) { harness.WithFinalizer(hold)(pool) })
				s.create(pool)
				s.delete(pool)
			},
			cure: func(s *scene) {
				pool := harness.Pool(s.ns)
				s.dropFinalizer(pool, hold)
				s.gone(pool)
				s.create(harness.Pool(s.ns))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			test.before(s)
			owner := s.machineSet("owner")
			s.waiting(owner)
			s.consistently("the owner is left alone", func(context.Context) error { return s.isWaiting(owner, s.shortage()) })

			test.cure(s)

			s.within(10*time.Second, "the owner to be touched", func(context.Context) error { return s.isTouched(owner) })
		})
	}
}

func TestOwnerOfAPausedClusterIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	s.create(cluster)
	s.fullPool(1)
	owner, other := s.machineSet("owner"), s.machineSet("other", harness.WithAnnotation("cluster.x-k8s.io/paused", ""))
	s.waiting(owner)
	s.waiting(other)
	s.change(cluster, func() { cluster.Spec.Paused = yes() })

	s.free(0)
	s.consistently("nobody is touched", func(context.Context) error {
		return errors.Join(s.isWaiting(owner, s.shortage()), s.isWaiting(other, s.shortage()))
	})

	s.change(cluster, func() { cluster.Spec.Paused = nil })
	s.touched(owner)
	s.annotate(other, "cluster.x-k8s.io/paused", nil)
	s.touched(other)
}

// A name that is used again is another owner, which nobody refused anything.
func TestOwnerOfTheNameThatIsNotTheOwnerIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.fullPool(1)
	former := harness.MachineSet(s.ns, "owner", "workers")
	former.SetUID("00000000-0000-0000-0000-000000000000")
	owner := s.machineSet("owner")

	s.denied(former)

	s.consistently("nothing is written on it", func(context.Context) error { return s.isTouched(owner) })
}
