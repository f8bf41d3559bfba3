package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

const (
	groupLabel   = "cluster.x-k8s.io/ip-pool-group"
	networkLabel = "cluster.x-k8s.io/network-name"
)

// grouped puts a pool into a group, or asks for it.
func grouped(group string) harness.Option { return harness.WithLabel(groupLabel, group) }

func networked(network string) harness.Option { return harness.WithLabel(networkLabel, network) }

// poolOf makes a further pool of the provider, with addresses that begin here.
func (s *scene) poolOf(f harness.Fixture, name string, first int, options ...harness.Option) client.Object {
	s.Helper()
	pool := f.Pool(s.ns, append([]harness.Option{harness.WithPoolName(name), f.WithIPs(first, first+1)}, options...)...)
	s.create(pool)
	return pool
}

// cloning makes a template with these labels, and is a machine that was cloned from it.
func (s *scene) cloning(name string, options ...harness.Option) client.Object {
	s.Helper()
	template := harness.Template(s.ns, "cp", options...)
	if err := s.env.Client.Create(s.Context(), template); client.IgnoreAlreadyExists(err) != nil {
		s.Fatal(err)
	}
	return harness.Clone(template, name)
}

func TestPoolIsFoundByTheLabelsOfTheTemplate(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, grouped("prod"), networked("storage"))
		s.poolOf(f, "b", 20, grouped("prod"), networked("vm-network"))
		s.poolOf(f, "c", 30, grouped("dev"), networked("vm-network"))

		s.create(s.cloning("cp-0", grouped("prod"), networked("vm-network")))

		if got := s.ip("cp-0"); got != f.IP(20) {
			t.Errorf("the machine has %s, want one of the pool with both labels", got)
		}
	})
}

func TestPoolIsFoundByOneOfTheTwoLabels(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, grouped("dev"))
		s.poolOf(f, "b", 20, grouped("prod"))
		s.poolOf(f, "c", 30, networked("vm-network"))

		s.create(harness.Machine(s.ns, "cp-0", grouped("prod")), harness.Machine(s.ns, "cp-1", networked("vm-network")))

		if got := s.ip("cp-0"); got != f.IP(20) {
			t.Errorf("the machine of the group has %s", got)
		}
		if got := s.ip("cp-1"); got != f.IP(30) {
			t.Errorf("the machine of the network has %s", got)
		}
	})
}

func TestEmptyLabelAsksForNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, func(pool *ipamv1.IPPool) { grouped("prod")(pool) }))

	s.create(s.cloning("cp-0", grouped(""), networked("")))

	s.expectDevices("cp-0", harness.StaticDevice())
	s.expectNoClaims()
}

func TestNameWinsOverGroup(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, grouped("prod"))
		s.poolOf(f, "named", 20)

		s.create(s.cloning("cp-0", grouped("prod"), harness.WithPool("named")))

		if got := s.ip("cp-0"); got != f.IP(20) {
			t.Errorf("the machine has %s, want one of the pool that is named", got)
		}
	})
}

func TestLabelsOfMachineAndTemplateAreNotMixed(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, grouped("prod"), networked("storage"))
		machine := s.cloning("cp-0", grouped("none"), networked("storage"))
		grouped("prod")(machine)

		s.create(machine)

		if got := s.ip("cp-0"); got != f.IP(88) {
			t.Errorf("the machine has %s, want one of the group that its own label names", got)
		}
	})
}

// pausedItself keeps its provider from serving a pool. metal3 looks for that only where the
// pool has a Cluster.
func pausedItself(pool client.Object) {
	harness.WithAnnotation(clusterv1.PausedAnnotation, "")(pool)
	if pool, is := pool.(*ipamv1.IPPool); is {
		pool.Spec.ClusterName = new(harness.DefaultCluster)
	}
}

func TestFirstPoolByNameThatHasAFreeAddress(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, harness.WithPoolName("a"), f.WithIPs(60, 60), grouped("prod"))
		s.create(s.expressing("holder", ref(f, "a")))
		s.settled("holder")
		going := s.poolOf(f, "b", 20, grouped("prod"), harness.WithFinalizer(hold))
		s.delete(going)
		defer s.dropFinalizer(going, hold)
		s.poolOf(f, "c", 30, grouped("prod"), harness.WithAnnotation(ipam.NetworksAnnotation, "elsewhere"))
		s.poolOf(f, "c-paused", 35, grouped("prod"), pausedItself)
		s.poolOf(f, "d", 40, grouped("prod"))
		s.poolOf(f, "e", 50, grouped("prod"))

		s.create(s.cloning("cp-0", grouped("prod")))

		if got := s.ip("cp-0"); got != f.IP(40) {
			t.Errorf("the machine has %s, want one of pool d", got)
		}
	})
}

// What a request was given before stays, although a pool before it has room by now.
func TestRepeatedRequestStaysWithItsPool(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, harness.WithPoolName("a"), f.WithIPs(60, 60), grouped("prod"))
		holder := s.expressing("holder", ref(f, "a"))
		s.create(holder)
		s.settled("holder")
		s.poolOf(f, "b", 20, grouped("prod"))
		s.rejectMarkedMachines()
		if err := s.env.Client.Create(t.Context(), harness.Machine(s.ns, "cp-0", grouped("prod"), harness.WithLabel(rejectedLabel, ""))); err == nil {
			t.Fatal("the machine was not rejected")
		}
		claim, err := s.claim("cp-0")
		if err != nil {
			t.Fatal(err)
		}
		s.delete(holder)
		s.gone(holder)

		s.create(harness.Machine(s.ns, "cp-0", grouped("prod")))

		if got := s.ip("cp-0"); got != f.IP(20) {
			t.Errorf("the machine has %s, want that of claim %s as before", got, claim.GetName())
		}
	})
}

func TestPoolOfAnotherNetworkIsPassedOver(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, grouped("prod"), harness.WithAnnotation(ipam.NetworksAnnotation, "seg-a"))
		s.poolOf(f, "zone-b", 20, grouped("prod"), harness.WithAnnotation(ipam.NetworksAnnotation, "seg-b"))
		c, warned := s.warnedClient()

		if err := c.Create(t.Context(), harness.Machine(s.ns, "cp-0", grouped("prod"), harness.WithDevices(onNetwork("seg-b")))); err != nil {
			t.Fatal(err)
		}

		warned.expect(s)
		if got := s.ip("cp-0"); got != f.IP(20) {
			t.Errorf("the machine has %s, want one of the pool of its network", got)
		}
	})
}

// Of pools that others named to be theirs nothing is said where labels choose, and a
// warning where one of them was named.
func TestSelectionPassesOverPoolsOfOthers(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, grouped("prod"), harness.WithAnnotation(ipam.UsedByAnnotation, s.ns+"/other"))
		s.poolOf(f, "ours", 20, grouped("prod"), harness.WithAnnotation(ipam.UsedByAnnotation, s.ns+"/"+harness.DefaultCluster))
		c, warned := s.warnedClient()
		create := func(machine client.Object) {
			t.Helper()
			if err := c.Create(t.Context(), machine); err != nil {
				t.Fatal(err)
			}
		}

		create(harness.Machine(s.ns, "cp-0", grouped("prod")))
		warned.expect(s)
		create(s.expressing("cp-1", ref(f, f.PoolName)+"|"+ref(f, "ours")))
		warned.expect(s, poolText(f)+` is not for Cluster "dkp" of namespace "NAMESPACE": ask its owner to add it to annotation capv-static-ip.dev/used-by, `+
			`or name another pool in `+expression)

		if first, second := s.ip("cp-0"), s.ip("cp-1"); first != f.IP(20) || second != f.IP(21) {
			t.Errorf("the machines have %s and %s, want those of the pool that is theirs", first, second)
		}
	})
}

func TestGroupOfNoPoolIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, grouped("dev"))
		s.create(harness.Template(s.ns, "cp", grouped("prod"), networked("vm-network")))

		s.denyMachines(`no pool in namespace "NAMESPACE" carries cluster.x-k8s.io/ip-pool-group=prod and cluster.x-k8s.io/network-name=vm-network, `+
			`asked for by labels of VSphereMachineTemplate "cp": label a pool, or correct the labels there`, harness.FromTemplate("cp"))
		s.denyMachines(`no pool in namespace "NAMESPACE" carries cluster.x-k8s.io/ip-pool-group=prod, asked for by `+expression+
			`: label a pool, or correct the annotation there`, withPoolOf("0", "@prod"))

		s.expectNoClaims()
	})
}

func TestGroupOfWhichNoPoolCanServeIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, harness.WithPoolName("a"), f.WithIPs(60, 60), grouped("prod"))
		s.create(s.expressing("holder", ref(f, "a")), harness.Template(s.ns, "cp", grouped("prod")))
		s.settled("holder")
		s.poolOf(f, "b", 30, grouped("prod"), harness.WithAnnotation(ipam.NetworksAnnotation, "elsewhere"))

		s.denyMachines(fmt.Sprintf(`no pool asked for by labels of VSphereMachineTemplate "cp" can serve: %[1]s "a" is exhausted, %[1]s "b" is for other networks; `+
			`add addresses to one of them, or name or label another`, f.Reference("").Kind), harness.FromTemplate("cp"))
	})
}

func TestGlobalPoolMatchesOnlyWhereItIsOpened(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	open := harness.GlobalInClusterPool(s.ns+"-open", harness.InClusterAddresses("10.16.66.10-10.16.66.19"))
	closed := harness.GlobalInClusterPool(s.ns+"-closed", harness.InClusterAddresses("10.16.67.10-10.16.67.19"))
	for _, pool := range []client.Object{open, closed} {
		grouped("shared")(pool)
	}
	harness.WithAnnotation(ipam.UsedByAnnotation, s.ns)(open)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))
	s.createGlobal(open, closed)
	other := s.neighbour()

	s.create(harness.Machine(s.ns, "cp-0", grouped("shared")))
	other.denyMachines(`no pool in namespace "NAMESPACE" carries cluster.x-k8s.io/ip-pool-group=shared, asked for by labels of the VSphereMachine: `+
		`label a pool, or correct the labels there`, grouped("shared"))

	if got := s.ip("cp-0"); got != "10.16.66.10" {
		t.Errorf("the machine has %s, want one of the pool that is open to its namespace", got)
	}
}

func TestPoolThatIsLabelledMakesTheOwnerTryAgain(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, label := range map[string]func(s *scene, pool client.Object){
			"when it is made":   func(s *scene, _ client.Object) { s.poolOf(f, "b", 20, grouped("prod")) },
			"when it is edited": func(s *scene, pool client.Object) { s.change(pool, func() { grouped("prod")(pool) }) },
		} {
			t.Run(name, func(t *testing.T) {
				s := newScene(t, shared)
				pool := s.pool(f)
				owner := s.machineSet("owner")
				machine := func(name string) client.Object {
					return harness.Machine(s.ns, name, grouped("prod"), harness.WithOwner(owner))
				}
				s.refused(machine("owner-x7k2p"), "no pool in namespace")
				s.eventually("the refusal on the owner", func(context.Context) error { return s.isWaiting(owner, string(ipam.NoPoolMatches)) })

				label(s, pool)

				s.touched(owner)
				s.within(patience, "a machine to be created", func(ctx context.Context) error { return s.env.Client.Create(ctx, machine("owner-b8m4q")) })
			})
		}
	})
}

// Nothing else brings the machine back so soon: after the first refusal it waits ten seconds
// for its next try.
func TestPoolThatIsLabelledWakesTheMachineThatIsStored(t *testing.T) {
	const beforeTheNextTry = 8 * time.Second
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, label := range map[string]func(s *scene, pool client.Object){
			"when it is made":   func(s *scene, _ client.Object) { s.poolOf(f, "b", 20, grouped("prod")) },
			"when it is edited": func(s *scene, pool client.Object) { s.change(pool, func() { grouped("prod")(pool) }) },
		} {
			t.Run(name, func(t *testing.T) {
				s := newScene(t, shared)
				pool := s.pool(f)
				s.stored(harness.Machine(s.ns, "cp-0", grouped("prod")))
				s.told("cp-0", string(ipam.NoPoolMatches))

				label(s, pool)

				s.within(beforeTheNextTry, "machine cp-0 to have its address", func(context.Context) error {
					if len(harness.Addresses(s.machine("cp-0"))) != 1 {
						return errors.New("it has none")
					}
					return nil
				})
			})
		}
	})
}
