package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// forLong is longer than any test.
const forLong = time.Hour

// coolsFor makes the addresses of a pool cool down for so long.
func coolsFor(d time.Duration) harness.Option {
	return harness.WithAnnotation(ipam.ReuseAfterAnnotation, d.String())
}

// isCooling returns since when an address cools down, or an error if it does not, or not
// as it should.
func (s *scene) isCooling(ip string) (since time.Time, err error) {
	address, err := s.address(ip)
	if err != nil {
		return time.Time{}, err
	}
	since, released := ipam.ReleasedAt(address)
	uid := address.GetAnnotations()[ipam.MachineUIDAnnotation]
	if !released || uid != "" || !ipam.IsProtected(address) {
		return since, fmt.Errorf("%s has the annotations %v and the finalizers %v", address.GetName(), address.GetAnnotations(), address.GetFinalizers())
	}
	for _, claim := range s.claims() {
		if harness.ProviderOf(claim).ReadClaim(claim).Address != address.GetName() || !claim.GetDeletionTimestamp().IsZero() {
			continue
		}
		_, moves := claim.GetLabels()[clusterctlv1.ClusterctlMoveLabel]
		if owners := claim.GetOwnerReferences(); len(owners) > 0 || !ipam.IsReleased(claim) || !moves {
			return since, fmt.Errorf("claim %s has the owners %v, the labels %v and the annotations %v", claim.GetName(), owners, claim.GetLabels(), claim.GetAnnotations())
		}
	}
	return since, nil
}

// cooling waits until an address cools down, and returns since when.
func (s *scene) cooling(ip string) (since time.Time) {
	s.Helper()
	s.eventually(ip+" to cool down", func(context.Context) (err error) {
		since, err = s.isCooling(ip)
		return err
	})
	return since
}

// staysCooling checks that an address goes on cooling down as it does.
func (s *scene) staysCooling(ip string, since time.Time) {
	s.Helper()
	s.consistently(ip+" cools down", func(context.Context) error { return s.isCoolingSince(ip, since) })
}

func (s *scene) isCoolingSince(ip string, since time.Time) error {
	now, err := s.isCooling(ip)
	if err == nil && !now.Equal(since) {
		err = fmt.Errorf("it cools down since %s, and before since %s", now, since)
	}
	return err
}

// cooled makes a machine and deletes it, whose address then cools down.
func (s *scene) cooled(f harness.Fixture, name string) (ip string, since time.Time) {
	s.Helper()
	machine := s.asks(f, name)
	s.create(machine)
	ip = s.settled(name)
	s.delete(machine)
	s.gone(machine)
	return ip, s.cooling(ip)
}

// notBefore checks that what happened just now did not happen too early.
func (s *scene) notBefore(since time.Time, after time.Duration) {
	s.Helper()
	if passed := time.Since(since); passed < after {
		s.Errorf("it was over after %s, want not before %s", passed, after)
	}
}

func TestAddressIsNotGivenAgainWhileItCools(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		const lasts = 6 * time.Second
		s.pool(f, f.WithIPs(88, 88), coolsFor(lasts))
		ip, since := s.cooled(f, "cp-0")
		next := s.rival(f, "next")

		s.expectDenial(s.env.Client.Create(s.Context(), s.asks(f, "cp-1")), exhausted(f, "1 of 1 addresses in use; addresses cool down for 6s"))
		if err := next.hasNothing(); err != nil {
			t.Error(err)
		}

		next.gets(ip)
		s.notBefore(since, lasts)
	})
}

// CAPV lets go of a machine without owner Machine at once.
func TestCoolDownStartsWhenTheVirtualMachineIsGone(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, coolsFor(forLong))
		machine := s.asks(f, "cp-0", harness.WithFinalizer(harness.MachineFinalizer))
		s.create(machine)
		ip := s.settled("cp-0")
		vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(vmFinalizer))
		s.create(vm)

		s.delete(machine)
		s.dropFinalizer(machine, harness.MachineFinalizer)
		s.gone(machine)
		s.consistently("the VM's address is protected, and does not cool down", func(context.Context) error {
			if _, err := s.isCooling(ip); err == nil {
				return errors.New("it cools down")
			}
			return s.isProtected(ip)
		})
		before := time.Now()
		s.gone(s.deleted(vm, vmFinalizer))

		if since := s.cooling(ip); since.Before(before) {
			t.Errorf("it cools down since %s, and its VM went after %s", since, before)
		}
		s.endsWhenShortened(pool, ip)
	})
}

// endsWhenShortened ends a cool-down that would last for long.
func (s *scene) endsWhenShortened(pool client.Object, ip string) {
	s.Helper()
	s.annotate(pool, ipam.ReuseAfterAnnotation, new("0s"))
	s.returned(ip)
	s.noClaims()
}

func TestMachineDoesNotWaitForIt(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for _, policy := range policies {
			t.Run(string(policy), func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				pool := s.pool(f, coolsFor(forLong))
				machine := s.asks(f, "cp-0", harness.WithFinalizer(harness.MachineFinalizer))
				s.create(machine)
				ip := s.settled("cp-0")

				s.delete(machine, client.PropagationPolicy(policy))
				s.dropFinalizer(machine, harness.MachineFinalizer)

				s.gone(machine)
				s.staysCooling(ip, s.cooling(ip))
				s.endsWhenShortened(pool, ip)
			})
		}
	})
}

func TestCoolingClaimIsNotReaped(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, coolsFor(forLong))
		ip, since := s.cooled(f, "cp-0")
		// A machine of the name that asks for nothing has nothing to do with it.
		s.create(harness.Machine(s.ns, "cp-0", harness.WithDevices(harness.DHCPDevice())))

		err := harness.Consistently(t.Context(), gracePeriod+gracePeriod/4, "the claim is neither reaped nor adopted", func(context.Context) error {
			return s.isCoolingSince(ip, since)
		})
		if err != nil {
			t.Error(err)
		}
		s.endsWhenShortened(pool, ip)
	})
}

func TestNameThatCoolsDownIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, harness.WithAnnotation(ipam.ReuseAfterAnnotation, "60m"))
		ip, since := s.cooled(f, "cp-1")

		s.denyMachine(`claim "cp-1-0" of `+poolText(f)+` is kept for 60m after its machine went: retry then, or give the machine another name`, "cp-1", f.Ask(f.PoolName))

		s.staysCooling(ip, since)
		s.endsWhenShortened(pool, ip)
		s.create(s.asks(f, "cp-1"))
	})
}

func TestShortenedWhileItRuns(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, coolsFor(forLong))
		ip, since := s.cooled(f, "cp-0")

		const lasts = 3 * time.Second
		s.annotate(pool, ipam.ReuseAfterAnnotation, new(lasts.String()))

		s.returned(ip)
		s.notBefore(since, lasts)
		s.noClaims()
	})
}

func TestDeletedPoolEndsIt(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		// The in-cluster provider refuses the deletion of a pool in use else.
		pool := s.pool(f, coolsFor(forLong), harness.WithAnnotation("ipam.cluster.x-k8s.io/skip-validate-delete-webhook", ""))
		s.cooled(f, "cp-0")

		s.delete(pool)

		s.gone(pool)
		s.noClaims()
	})
}

// A pool of all namespaces does not go with one of them.
func TestDeletedNamespaceEndsIt(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, coolsFor(forLong))
		s.cooled(f, "cp-0")
		s.deletedNamespaceGoes()
	})
	t.Run("with a pool of all namespaces", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		pool := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses("10.16.68.10-10.16.68.19"))
		coolsFor(forLong)(pool)
		s.create(harness.Cluster(s.ns, harness.DefaultCluster))
		s.createGlobal(pool)
		machine := harness.Machine(s.ns, "cp-0", withPoolOf("0", "GlobalInClusterIPPool/"+pool.GetName()))
		s.create(machine)
		ip := s.settled("cp-0")
		s.delete(machine)
		s.gone(machine)
		s.cooling(ip)
		s.deletedNamespaceGoes()
	})
}

func TestClaimDeletedWhileCoolingFreesNothing(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		const lasts = 8 * time.Second
		s.pool(f, f.WithIPs(88, 88), coolsFor(lasts))
		ip, since := s.cooled(f, "cp-0")
		claim, err := s.claim("cp-0")
		if err != nil {
			t.Fatal(err)
		}

		s.delete(claim)

		if !f.Provider.Traits().KeepsFinalizedClaims {
			s.gone(claim)
		}
		s.refused(s.asks(f, "cp-0"), `is kept for 8s after its machine went`)
		next := s.rival(f, "next")
		s.staysCooling(ip, since)
		next.gets(ip)
		s.notBefore(since, lasts)
	})
}

// Without our finalizer the machine goes before anything can be written.
func TestClaimCollectedWithItsMachineCoolsDown(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		const lasts = 6 * time.Second
		s.pool(f, f.WithIPs(88, 88), coolsFor(lasts))
		machine := s.asks(f, "cp-0", harness.WithFinalizer(harness.MachineFinalizer))
		s.create(machine)
		ip := s.settled("cp-0")
		next := s.rival(f, "next")

		s.delete(machine, client.PropagationPolicy(metav1.DeletePropagationBackground))
		s.change(machine, func() { machine.Finalizers = nil })
		s.gone(machine)

		since := s.cooling(ip)
		next.gets(ip)
		s.notBefore(since, lasts)
	})
}

func TestOwnerIsTouchedWhenItEnds(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		const lasts = 8 * time.Second
		s.pool(f, f.WithIPs(88, 88), coolsFor(lasts))
		_, since := s.cooled(f, "cp-0")
		owner := s.machineSet("owner")
		s.refused(s.asks(f, "owner-x7k2p", harness.WithOwner(owner)), "is exhausted")
		waits := func(context.Context) error { return s.isWaiting(owner, f.Reference(f.PoolName).String()) }
		s.eventually("the refusal on the owner", waits)
		s.consistently("the owner waits", waits)

		s.touched(owner)
		s.notBefore(since, lasts)
		s.create(s.asks(f, "owner-b8m4q", harness.WithOwner(owner)))
	})
}
