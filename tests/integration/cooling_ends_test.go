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

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// deletedNamespaceGoes deletes the namespace. Its pools may go last: the in-cluster
// provider refuses the deletion of those in use, and the namespace controller looks
// again ever more rarely.
func (s *scene) deletedNamespaceGoes() {
	s.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	s.delete(namespace)
	s.noClaims()
	if err := harness.WaitGone(s.Context(), s.env.Client, namespace, 6*harness.Soon); err != nil {
		s.Fatal(err)
	}
}

// The in-cluster provider itself keeps an address for a while after its claim was
// deleted. The longer of the two counts.
func TestGraceOfTheProviderIsNotAddedUp(t *testing.T) {
	t.Parallel()
	const lingers = 6 * time.Second
	own := func(d time.Duration) harness.InClusterOption {
		return harness.InClusterField(int64(d/time.Second), "addressReuseGracePeriodSeconds")
	}
	t.Run("when it is shorter", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		const lasts = 10 * time.Second
		s.inClusterPool(own(lingers), harness.InClusterWith(coolsFor(lasts)), harness.InClusterAddresses("10.16.57.88"))
		ip, since := s.cooled(harness.OfInCluster, "cp-0")
		next := s.rival(harness.OfInCluster, "next")

		var deleted time.Time
		s.eventually("the claim to be deleted", func(context.Context) error {
			claim, err := s.claim("cp-0")
			if err != nil {
				return err
			}
			if claim.GetDeletionTimestamp().IsZero() {
				return errors.New("nobody has deleted it")
			}
			deleted = claim.GetDeletionTimestamp().Time
			return nil
		})
		// The API server tells the second.
		if early := since.Add(lasts - lingers - time.Second); deleted.Before(early) {
			t.Errorf("the claim was deleted at %s, want not before %s", deleted, early)
		}
		next.gets(ip)
		s.notBefore(since, lasts-time.Second)
		if sum := lasts + lingers; time.Since(since) >= sum {
			t.Errorf("the address was free after %s, want less than the sum of both, %s", time.Since(since), sum)
		}
	})
	t.Run("when it is longer", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.inClusterPool(own(lingers), harness.InClusterWith(coolsFor(lingers-time.Second)))
		machine := s.asks(harness.OfInCluster, "cp-0")
		s.create(machine)
		ip := s.settled("cp-0")
		before := time.Now()

		s.delete(machine)
		s.gone(machine)

		claim, err := s.claim("cp-0")
		if err != nil {
			t.Fatal(err)
		}
		if claim.GetDeletionTimestamp().IsZero() || ipam.IsReleased(claim) {
			t.Errorf("the claim was deleted at %v and has the annotations %v, want it deleted at once", claim.GetDeletionTimestamp(), claim.GetAnnotations())
		}
		s.returned(ip)
		s.notBefore(before, lingers-time.Second)
	})
}

// Nobody is left to be paused, but who pauses a Cluster wants nothing to change.
func TestCoolDownDoesNotEndWhileTheClusterIsPaused(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, coolsFor(forLong))
		ip, since := s.cooled(f, "cp-0")
		cluster := harness.Cluster(s.ns, harness.DefaultCluster)
		s.change(cluster, func() { cluster.Spec.Paused = new(true) })
		s.knownToBePaused()

		s.annotate(pool, ipam.ReuseAfterAnnotation, nil)

		s.staysCooling(ip, since)
		s.change(cluster, func() { cluster.Spec.Paused = nil })
		s.returned(ip)
		s.noClaims()
	})
}

// Machines of a Cluster that is deleted are the last that it waits for.
func TestCoolDownEndsWhenTheClusterIsGone(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, coolsFor(forLong))
		ip, since := s.cooled(f, "cp-0")
		cluster := harness.Cluster(s.ns, harness.DefaultCluster)
		s.delete(cluster)
		s.gone(cluster)
		s.staysCooling(ip, since)

		s.endsWhenShortened(pool, ip)
	})
}

// A backup brings the machine back, and leaves the claim that is still there.
func TestRestoredMachineGetsTheClaimBackThatCoolsDown(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, coolsFor(forLong))
		machine := s.asks(f, "cp-0")
		s.create(machine)
		ip := s.settled("cp-0")
		s.change(machine, func() { machine.Spec.ProviderID = "vsphere://" + s.ns })
		saved := s.backup(machine, "cp-0")
		s.delete(s.machine("cp-0"))
		s.gone(machine)
		s.cooling(ip)

		s.restore(saved)

		s.eventually("the restored machine to adopt its claim", func(context.Context) error {
			if _, err := s.isCooling(ip); err == nil {
				return errors.New("it still cools down")
			}
			return s.isFullyAdopted("cp-0", ip)
		})
		s.annotate(pool, ipam.ReuseAfterAnnotation, nil)
		s.consistently("the address is held", func(context.Context) error { return s.isHeld("cp-0", ip) })
	})
}

func TestPoolThatDoesNotSayLegiblyWhenToReuseIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for _, text := range []string{"5", "-5m", "five minutes", ""} {
			t.Run(text, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.pool(f, harness.WithAnnotation(ipam.ReuseAfterAnnotation, text))
				s.denyMachines(poolText(f)+` has an invalid annotation capv-static-ip.dev/reuse-after: write a duration as 5m; correct it`, f.Ask(f.PoolName))
			})
		}
	})
}

// Machines are not held up by what somebody wrote on their pool.
func TestPoolThatDoesNotSayLegiblyWhenToReuseIsTold(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f)
		machine := s.asks(f, "cp-0")
		s.create(machine)
		ip := s.settled("cp-0")
		s.annotate(pool, ipam.ReuseAfterAnnotation, new("soon"))

		s.delete(machine)

		s.returned(ip)
		if note := s.toldAbout(f.Reference(f.PoolName).Kind, pool.GetName(), "ReuseAfterInvalid").Note; !strings.Contains(note, "the default") {
			t.Errorf("the event says %q", note)
		}
	})
}

// Nothing tells of changes of such a pool.
func addressOfARangeCools(s *scene) {
	const lasts = 6 * time.Second
	pool := s.rangePool()
	s.annotate(pool, ipam.ReuseAfterAnnotation, new(lasts.String()))
	stop := s.playContract(s.answersWith("10.16.59.88"))
	defer stop()
	machine := s.rangeMachine("cp-0")
	s.create(machine)
	ip := s.settled("cp-0")

	s.delete(machine)
	s.gone(machine)

	since := s.cooling(ip)
	s.noClaims()
	s.notBefore(since, lasts)
}

// The rest of a cool-down is counted by who leads then.
func TestRestartOfTheManagerInBetween(t *testing.T) {
	t.Parallel()
	const lasts = 25 * time.Second
	env := ownEnvironment(t, harness.Options{}, 0)
	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{
		OrphanGracePeriod: gracePeriod, WithoutLeaderElection: true, Args: []string{"--reuse-after=" + lasts.String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	env.managers = append(env.managers, manager)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	scenes := map[string]*scene{}
	ips, sinces := map[string]string{}, map[string]time.Time{}
	for _, f := range harness.Fixtures {
		s := bareScene(t, env)
		s.pool(f)
		scenes[f.Name] = s
		ips[f.Name], sinces[f.Name] = s.cooled(f, "cp-0")
		s.denyMachine(`claim "cp-0-0" of `+poolText(f)+` is kept for 25s after its machine went: retry then, or give the machine another name`, "cp-0", f.Ask(f.PoolName))
	}

	if err := manager.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := manager.Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	for name, s := range scenes {
		if got := s.cooling(ips[name]); !got.Equal(sinces[name]) {
			t.Errorf("%s: it cools down since %s, want since %s as before", name, got, sinces[name])
		}
	}
	scenes[harness.OfMetal3.Name].eventually("both to be counted", func(ctx context.Context) error {
		if count, err := manager.Metric(ctx, "capv_static_ip_addresses_cooling", nil); err != nil || count != 2 {
			return errors.Join(err, fmt.Errorf("%v cool down", count))
		}
		return nil
	})
	for name, s := range scenes {
		s.within(lasts+harness.Soon, "the address to be back", s.isReturned(ips[name]))
		s.notBefore(sinces[name], lasts)
		if passed := time.Since(sinces[name]); passed > lasts+harness.Soon {
			t.Errorf("%s: it was over after %s, want %s", name, passed, lasts)
		}
		s.noClaims()
	}
	scenes[harness.OfMetal3.Name].eventually("none to be counted", func(ctx context.Context) error {
		if count, err := manager.Metric(ctx, "capv_static_ip_addresses_cooling", nil); err != nil || count != 0 {
			return errors.Join(err, fmt.Errorf("%v cool down", count))
		}
		return nil
	})
}

// A claim that clusterctl takes away goes with its address, or leaves that where its pool
// stays: there it is freed in its time, since no machine uses it elsewhere.
func TestCoolingAddressThatAMoveLeavesIsFreed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	pool := s.pool(f, coolsFor(forLong))
	ip, since := s.cooled(f, "cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}

	s.deleteForMove(claim)
	s.consistently("nothing is freed while the claim moves", func(context.Context) error { return s.isCoolingSince(ip, since) })
	s.stripFinalizers(claim)
	s.staysCooling(ip, since)

	s.annotate(pool, ipam.ReuseAfterAnnotation, new("0s"))
	s.within(gracePeriod+harness.Soon, "the address to be back in its pool", s.isReturned(ip))
}
