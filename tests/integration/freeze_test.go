package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// because is why something is frozen here.
const because = "restoring the backup of Monday"

// freezes is what somebody marks, how a denial names that, and what a refused owner then
// waits for.
type freezes struct {
	mark     func(s *scene, f harness.Fixture) client.Object
	what     func(f harness.Fixture) string
	obstacle func(f harness.Fixture) string
}

var byMark = map[string]freezes{
	"pool": {
		mark:     func(s *scene, f harness.Fixture) client.Object { return f.Pool(s.ns) },
		what:     poolText,
		obstacle: func(f harness.Fixture) string { return f.Reference(f.PoolName).String() },
	},
	"namespace": {
		mark: func(s *scene, _ harness.Fixture) client.Object {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
		},
		what:     func(harness.Fixture) string { return `namespace "NAMESPACE"` },
		obstacle: func(harness.Fixture) string { return string(ipam.Frozen) },
	},
}

// frozenText is the denial of whoever asks for what is frozen.
func frozenText(what string) string {
	return what + " is frozen (" + because + "): wait until that is over; to end it, take annotation capv-static-ip.dev/frozen off it"
}

// freeze marks an object, and waits until each replica knows of it.
func (s *scene) freeze(f harness.Fixture, object client.Object, what string) {
	s.Helper()
	why := because
	s.annotate(object, ipam.FrozenAnnotation, &why)
	preview := s.creation("probe", s.manifest(s.asks(f, "probe")))
	preview.DryRun = yes()
	for _, replica := range s.env.managers {
		s.eventually(replica.Name+" to know that it is frozen", func(context.Context) error {
			if response := s.ask(replica, preview); !slices.Contains(response.Warnings, s.text(frozenText(what))) {
				return fmt.Errorf("it warns of %q", response.Warnings)
			}
			return nil
		})
	}
}

// thaw takes the mark off.
func (s *scene) thaw(object client.Object) {
	s.Helper()
	s.annotate(object, ipam.FrozenAnnotation, nil)
}

// outlives waits until an orphan of the same age is reaped elsewhere: what would be is then
// there only because it is frozen.
func (s *scene) outlives(f harness.Fixture) {
	s.Helper()
	witness := newScene(s.T, s.env)
	witness.create(harness.Cluster(witness.ns, harness.DefaultCluster), f.Pool(witness.ns))
	witness.reaped(witness.orphan(f, "witness", 0))
}

func TestWhatIsFrozenIsNeitherGivenNorGivenBackUntilThatIsOver(t *testing.T) {
	for name, by := range byMark {
		t.Run(name, func(t *testing.T) {
			harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
				s := newScene(t, shared)
				s.pool(f)
				machine := s.asks(f, "cp-0")
				s.create(machine)
				ip := s.settled("cp-0")
				owner, mark, what := s.machineSet("workers"), by.mark(s, f), by.what(f)
				orphan := s.orphan(f, "never", 0)

				s.freeze(f, mark, what)
				refused := func() {
					s.expectDenial(s.env.Client.Create(t.Context(), s.asks(f, "workers-x7k2p", harness.WithOwner(owner))), frozenText(what))
				}
				refused()
				s.eventually("the refusal on the owner", func(context.Context) error {
					err := s.isWaiting(owner, by.obstacle(f))
					if err != nil {
						// It may have been made to try again, since the pool has changed just now.
						refused()
					}
					return err
				})
				s.delete(machine)
				const kept = "%s, and this machine, because %s is frozen (" + because + "): both go when that is over; to end it, take annotation capv-static-ip.dev/frozen off it"
				if note, want := s.told("cp-0", "ReleaseFrozen"), s.text(fmt.Sprintf("Keeping "+kept, ip, what)); note != want {
					t.Errorf("it is told\n%s\nwant\n%s", note, want)
				}
				s.outlives(f)

				if err := errors.Join(s.isHeld("cp-0", ip), s.exists(orphan), s.exists(machine)); err != nil {
					t.Error(err)
				}
				s.thaw(mark)
				s.gone(machine)
				s.returned(ip)
				s.within(2*harness.Soon, "the owner to be made to try again", func(context.Context) error { return s.isTouched(owner) })
				s.reaped(orphan)
				s.create(s.asks(f, "next", harness.WithOwner(owner)))
			})
		})
	}
}

// exists returns an error unless an object is there, and whole.
func (s *scene) exists(object client.Object) error {
	current := object.DeepCopyObject().(client.Object)
	return s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(object), current)
}

func TestMachinesAreAdoptedAndRebuiltWhileTheirNamespaceIsFrozen(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		by := byMark["namespace"]
		mark := by.mark(s, f)
		s.freeze(f, mark, by.what(f))

		s.restored("cp-0", f.Reference(f.PoolName), f.IP(91))
		s.eventually("the claim to come back with its address", func(context.Context) error { return s.isFullyAdopted("cp-0", f.IP(91)) })
		claim, err := s.claim("cp-0")
		if err != nil {
			t.Fatal(err)
		}
		s.delete(claim)

		if !f.Is(harness.OfMetal3) {
			// This provider deletes the address with its claim, frozen or not. It is only kept.
			s.gone(claim)
			s.consistently("the address is protected", func(context.Context) error { return s.isProtected(f.IP(91)) })
			return
		}
		s.within(recreateTime, "the claim that was deleted to be made anew", func(context.Context) error {
			return errors.Join(s.isRecreated("cp-0", f.IP(91), claim), s.isProtected(f.IP(91)))
		})
		s.thaw(mark)
	})
}

func TestMachineThatIsStoredWaitsForTheEndOfAFreeze(t *testing.T) {
	for name, by := range byMark {
		t.Run(name, func(t *testing.T) {
			harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
				s := newScene(t, shared)
				s.pool(f)
				mark := by.mark(s, f)
				s.freeze(f, mark, by.what(f))

				s.stored(s.asks(f, "cp-0"))
				if note, want := s.told("cp-0", string(ipam.Frozen)), s.text(frozenText(by.what(f))); note != want {
					t.Errorf("it is told\n%s\nwant\n%s", note, want)
				}
				s.staysWithout("cp-0", "what is frozen is not given to a machine that is stored")

				s.thaw(mark)
				s.served("cp-0", 1)
			})
		})
	}
}

func TestCoolDownDoesNotEndWhileItsPoolIsFrozen(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, coolsFor(forLong))
		ip, since := s.cooled(f, "cp-0")
		s.freeze(f, pool, poolText(f))

		s.annotate(pool, ipam.ReuseAfterAnnotation, nil)

		s.staysCooling(ip, since)
		s.thaw(pool)
		s.within(2*harness.Soon, ip+" to be back in its pool", s.isReturned(ip))
		s.noClaims()
	})
}

func TestEndpointIsNeitherGivenNorGivenBackWhileFrozen(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 180, 189)
		by := byMark["namespace"]
		mark := by.mark(s, f)
		cluster := harness.VSphereCluster(s.ns, "prod", endpointOf(f))
		s.create(cluster)
		ip := f.IP(180)
		s.expectEndpoint("prod", ip, 6443)
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", ip) })
		s.freeze(f, mark, by.what(f))

		s.expectDeniedEndpoint(s.env.Client.Create(t.Context(), harness.VSphereCluster(s.ns, "next", endpointOf(f))), frozenText(by.what(f)))
		s.delete(cluster)
		s.toldAbout("VSphereCluster", "prod", "ReleaseFrozen")
		if err := errors.Join(s.exists(cluster), s.endpointIsHeld("prod", ip)); err != nil {
			t.Error(err)
		}

		s.thaw(mark)
		s.gone(cluster)
		s.returned(ip)
	})
}

func TestFlagOfTheManagerFreezesEverything(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutInCluster: true}, 1)
	s := newScene(t, env)
	s.create(harness.Pool(s.ns))
	machine := s.pooled("cp-0")
	s.create(machine)
	ip := s.settled("cp-0")
	if err := env.managers[0].Stop(); err != nil {
		t.Fatal(err)
	}
	frozen, err := env.StartManager(context.WithoutCancel(t.Context()), harness.ManagerOptions{OrphanGracePeriod: gracePeriod, Args: []string{"--freeze=" + because}})
	if err != nil {
		t.Fatal(err)
	}

	s.expectDenial(s.env.Client.Create(t.Context(), s.pooled("next")),
		"capv-static-ip is frozen ("+because+"): wait until that is over; to end it, start the manager without --freeze")
	s.delete(machine)
	s.told("cp-0", "ReleaseFrozen")
	if err := errors.Join(s.exists(machine), s.isHeld("cp-0", ip)); err != nil {
		t.Error(err)
	}

	if err := frozen.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := env.managers[0].Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	s.gone(machine)
	s.returned(ip)
}

func whatIsFrozenIsNotTaken(s *scene) {
	f, pool := harness.OfMetal3, s.takingPool()
	s.freeze(f, pool, poolText(f))

	s.expectDenial(s.env.Client.Create(s.Context(), s.pooled("cp-0")), frozenText(poolText(f)))
	if taken := s.takenFor("cp-0"); taken != nil {
		s.Errorf("%s was taken", taken.GetName())
	}

	s.thaw(pool)
	s.eventually("a machine to be made", func(ctx context.Context) error { return s.env.Client.Create(ctx, s.pooled("cp-0")) })
	s.isTakenBy("cp-0")
}

// frozenBehindAMachine leaves a machine in a frozen namespace that has an address, and no
// claim.
func frozenBehindAMachine(s *scene) {
	s.takingPool()
	s.create(s.pooled("cp-0"))
	s.isTakenBy("cp-0")
	by := byMark["namespace"]
	s.freeze(harness.OfMetal3, by.mark(s, harness.OfMetal3), by.what(harness.OfMetal3))
}

// claimComesWhileItIsFrozen looks at what frozenBehindAMachine left.
func claimComesWhileItIsFrozen(s *scene) {
	ip, machine := s.settled("cp-0"), s.machine("cp-0")
	s.delete(machine)
	s.told("cp-0", "ReleaseFrozen")
	if err := errors.Join(s.exists(machine), s.isHeld("cp-0", ip)); err != nil {
		s.Error(err)
	}

	s.thaw(byMark["namespace"].mark(s, harness.OfMetal3))
	s.gone(machine)
	s.returned(ip)
}

// whatWasTakenStaysWhileItIsFrozen has an address taken for a machine that is never stored.
func whatWasTakenStaysWhileItIsFrozen(s *scene) {
	f, pool := harness.OfMetal3, s.takingPool()
	if answer := s.ask(s.env.managers[0], s.creation("never", s.onOwnNetwork(s.manifest(s.pooled("never"))))); !answer.Allowed {
		s.Fatal(answer.Result.Message)
	}
	taken := s.takenFor("never")
	if taken == nil {
		s.Fatal("no address was taken")
	}
	s.freeze(f, pool, poolText(f))

	s.outlives(f)
	if s.takenFor("never") == nil {
		s.Errorf("%s was given back", taken.GetName())
	}

	s.thaw(pool)
	s.reaped(taken)
}
