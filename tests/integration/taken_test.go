package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	admissionv1 "k8s.io/api/admission/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

const (
	// byAddress has managers take addresses of metal3 pools without metal3.
	byAddress = "--metal3-allocation=address"
	// byClaim has them ask metal3 for each.
	byClaim = "--metal3-allocation=claim"
)

// TestAddressesAreTakenWithoutMetal3 has one environment for what happens to addresses
// before they have claims, which nobody makes as long as no replica leads, and then for
// what becomes of them.
//
// It is not parallel to others: its scenes are to each other, and would wait for all others
// first, with the environment.
func TestAddressesAreTakenWithoutMetal3(t *testing.T) {
	env := ownEnvironment(t, harness.Options{}, 0)
	lease := holdLease(t, env)
	for range 2 {
		manager, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: gracePeriod, Args: []string{byAddress}})
		if err != nil {
			t.Fatal(err)
		}
		env.managers = append(env.managers, manager)
	}
	// What has no claim yet is looked at again when a replica leads.
	var left, frozen string
	t.Run("while nobody leads", func(t *testing.T) {
		for name, test := range map[string]func(*scene){
			"a leader that made a claim writes no more":           func(s *scene) { left = s.ns; claimIsMadeAndNoMore(s) },
			"a machine needs one write":                           machineTakesOneWrite,
			"a copy of its manifest is denied":                    copyOfAClaimlessMachineIsDenied,
			"a name that is asked for many times has one address": oneNameHasOneAddress,
			"a full pool has as many machines as addresses":       poolIsFullWhenAllAreTaken,
			"a webhook behind changes the machine":                machineIsChangedBehind,
			"metal3 answers nobody, and nobody needs it":          metal3OnlyGuards,
			"metal3 is asked where it has to be":                  metal3IsAskedWhereItMust,
			"what is frozen is not taken":                         whatIsFrozenIsNotTaken,
			"a namespace is frozen behind a machine":              func(s *scene) { frozen = s.ns; frozenBehindAMachine(s) },
			"a migration leaves what has no claim":                migrationLeavesWhatHasNoClaim,
			"a migration goes by what metal3 counts":              migrationGoesByWhatMetal3Counts,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := &scene{T: t, env: env}
				var err error
				if s.ns, err = env.CreateNamespace(t.Context(), "scene"); err != nil {
					t.Fatal(err)
				}
				test(s)
			})
		}
	})
	if t.Failed() {
		return
	}
	released(t, env, lease)
	t.Run("with a leader", func(t *testing.T) {
		t.Run("what one before it left is finished", func(t *testing.T) {
			t.Parallel()
			claimIsWhole(&scene{T: t, env: env, ns: left})
		})
		t.Run("a machine whose namespace is frozen has its claim", func(t *testing.T) {
			t.Parallel()
			claimComesWhileItIsFrozen(&scene{T: t, env: env, ns: frozen})
		})
		for name, test := range map[string]func(*scene){
			"all machines have claims":                         claimsCome,
			"an address is as metal3 makes it":                 addressIsAsMetal3MakesIt,
			"a machine that is refused gives it back":          refusedMachineGivesItBack,
			"a machine that goes at once gives it back":        machineThatGoesAtOnceGivesItBack,
			"metal3 and machines have different ones":          metal3AndMachinesHaveDifferentOnes,
			"all of a machine's devices, and both families":    allDevicesAreServed,
			"what is reserved, and what the network needs":     reservedAddressesAreNotTaken,
			"a range that is taken out of a pool is not given": rangeThatIsTakenOutIsNotGiven,
			"a machine of a deleted pool":                      poolGoesWithAMachine,
			"what is frozen is not given back":                 whatWasTakenStaysWhileItIsFrozen,
			"a migration moves what was taken just now":        migrationMovesWhatWasTaken,
			"a pool that is moved to gives away none of it":    migrationKeepsWhatIsMoved,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(newScene(t, env))
			})
		}
	})
}

// holdLease makes the lease of the leader, held by nobody who does anything.
func holdLease(t *testing.T, env *environment) *coordinationv1.Lease {
	t.Helper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: harness.SystemNamespace, Name: "capv-static-ip-leader-election"}}
	lease.Spec = coordinationv1.LeaseSpec{
		HolderIdentity: new("nobody"), LeaseDurationSeconds: new(int32(24 * 60 * 60)),
		AcquireTime: new(metav1.NowMicro()), RenewTime: new(metav1.NowMicro()),
	}
	if err := env.Client.Create(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	return lease
}

// released lets a replica lead.
func released(t *testing.T, env *environment, lease *coordinationv1.Lease) {
	t.Helper()
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = new(""), new(int32(1))
	if err := env.Client.Update(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
}

// takingPool makes a pool and waits until both replicas take addresses of it. It is empty then.
func (s *scene) takingPool(options ...harness.PoolOption) *ipamv1.IPPool {
	s.Helper()
	pool := harness.Pool(s.ns, options...)
	s.create(pool)
	s.isServed(pool)
	s.takes(pool.Name)
	// Before a replica takes them it asks metal3, which may make one for a claim that has gone.
	for _, address := range s.addresses() {
		if harness.ProviderOf(address).ReadAddress(address).Pool.Name == pool.Name {
			s.discard(address)
		}
	}
	return pool
}

// takes waits until each replica takes addresses of a pool.
func (s *scene) takes(pool string) {
	s.Helper()
	for i, replica := range s.env.managers {
		tries := 0
		s.eventually(replica.Name+" to take addresses of "+pool, func(context.Context) error {
			// A name of which there is a claim is metal3's to serve.
			name := fmt.Sprintf("warm-%d-%d", i, tries)
			tries++
			answer, taken := s.probe(replica, name, pool)
			if !answer.Allowed {
				return errors.New(answer.Result.Message)
			}
			if taken == nil {
				return errors.New("it has made a claim")
			}
			return nil
		})
	}
}

// probe asks a replica for a machine that is not stored, and frees what was given to it. It
// returns the address that was taken for it, nil if none was.
func (s *scene) probe(replica *harness.Manager, name, pool string) (*admissionv1.AdmissionResponse, client.Object) {
	s.Helper()
	answer := s.ask(replica, s.creation(name, s.onOwnNetwork(s.manifest(harness.Machine(s.ns, name, harness.WithPool(pool))))))
	taken := s.takenFor(name)
	s.forget(name)
	return answer, taken
}

// forget frees what a machine that is not stored has. metal3 is seen to make an address for a
// claim that is gone by then, which it does not look at again.
func (s *scene) forget(name string) {
	s.Helper()
	for _, claim := range s.claims() {
		if ipam.MachineOf(claim) == name {
			s.delete(claim)
			s.gone(claim)
		}
	}
	for _, address := range s.addresses() {
		if claim := harness.ProviderOf(address).ReadAddress(address).Claim; claim == ipam.ClaimName(name, ipam.Slot{}) {
			s.discard(address)
		}
	}
}

// discard deletes an address that nobody has.
func (s *scene) discard(address client.Object) {
	s.Helper()
	if err := s.env.Client.Delete(s.Context(), address); client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	s.stripFinalizers(address)
}

// takenFor is the address that was taken for a machine and has no claim, nil if there is none.
func (s *scene) takenFor(machine string) client.Object {
	s.Helper()
	for _, address := range s.addresses() {
		if ipam.MachineOf(address) == machine && ipam.IsTaken(address) {
			return address
		}
	}
	return nil
}

// isTakenBy fails the test unless a machine that was created has an address that was taken,
// and no claim.
func (s *scene) isTakenBy(machine string) client.Object {
	s.Helper()
	taken := s.takenFor(machine)
	if taken == nil {
		s.Fatalf("no address was taken for %s", machine)
	}
	if ip := s.ip(machine); harness.ProviderOf(taken).ReadAddress(taken).IP != ip {
		s.Errorf("%s has %s, and %s was taken for it", machine, ip, taken.GetName())
	}
	if claim, err := s.claim(machine); !apierrors.IsNotFound(err) {
		s.Errorf("%s has claim %v, error %v", machine, claim, err)
	}
	return taken
}

func machineTakesOneWrite(s *scene) {
	s.takingPool()
	s.create(s.pooled("cp-0"))
	address := s.isTakenBy("cp-0")
	if !ipam.IsProtected(address) || address.GetAnnotations()[ipam.NetworkAnnotation] == "" {
		s.Errorf("it is not protected, or says no network: %v", address.GetAnnotations())
	}
	// The one that was stored is the conflict, whatever happens to its claim.
	if err := s.env.Client.Create(s.Context(), s.pooled("cp-0")); !apierrors.IsAlreadyExists(err) {
		s.Errorf("a second create ended with %v, want a conflict", err)
	}
}

func copyOfAClaimlessMachineIsDenied(s *scene) {
	s.takingPool()
	s.create(s.pooled("cp-0"))
	s.isTakenBy("cp-0")
	s.refused(s.copyOf("cp-0", "cp-1"), "cp-0")
}

func oneNameHasOneAddress(s *scene) {
	s.takingPool(harness.PoolRange("10.16.56.20", "10.16.56.99"))
	var tries sync.WaitGroup
	var mu sync.Mutex
	created := map[string]int{}
	for try := range 40 {
		name := fmt.Sprintf("cp-%d", try%8)
		tries.Go(func() {
			if err := s.env.Client.Create(s.Context(), s.pooled(name)); err == nil {
				mu.Lock()
				created[name]++
				mu.Unlock()
			}
		})
	}
	tries.Wait()
	for name := range 8 {
		if n := created[fmt.Sprintf("cp-%d", name)]; n != 1 {
			s.Errorf("cp-%d was created %d times", name, n)
		}
	}
	holders := map[string]int{}
	for _, address := range s.addresses() {
		holders[ipam.MachineOf(address)]++
	}
	for name, n := range holders {
		if n > 1 {
			s.Errorf("%s has %d addresses", name, n)
		}
	}
	s.eachHasItsOwn(slices.Collect(maps.Keys(created))...)
}

// eachHasItsOwn checks that no two machines have one address.
func (s *scene) eachHasItsOwn(names ...string) {
	s.Helper()
	holders := map[string]string{}
	for _, name := range names {
		ip := s.ip(name)
		if other, has := holders[ip]; has {
			s.Errorf("%s and %s both have %s", name, other, ip)
		}
		holders[ip] = name
	}
}

func poolIsFullWhenAllAreTaken(s *scene) {
	s.takingPool(harness.PoolRange("10.16.56.20", "10.16.56.39"))
	var creates sync.WaitGroup
	var mu sync.Mutex
	var stored []string
	for i := range 40 {
		name := fmt.Sprintf("cp-%d", i)
		creates.Go(func() {
			err := s.env.Client.Create(s.Context(), s.pooled(name))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				stored = append(stored, name)
			} else if !strings.Contains(err.Error(), "is exhausted") && !strings.Contains(err.Error(), "in time") {
				s.Errorf("%s: %v", name, err)
			}
		})
	}
	creates.Wait()
	if len(stored) != 20 {
		s.Errorf("%d machines are stored, want 20", len(stored))
	}
	s.eachHasItsOwn(stored...)
	s.expectDenial(s.env.Client.Create(s.Context(), s.pooled("next")), exhausted(harness.OfMetal3, "20 of 20 addresses in use"))
}

func machineIsChangedBehind(s *scene) {
	s.takingPool()
	s.lateWebhook(func(*admissionv1.AdmissionRequest) string {
		return `[{"op":"add","path":"/metadata/labels/changed","value":"behind"}]`
	})
	s.create(s.pooled("cp-0", late))
	s.isTakenBy("cp-0")
	if s.machine("cp-0").Labels["changed"] != "behind" {
		s.Error("it was not changed")
	}
}

// metal3OnlyGuards shows that nothing but metal3's webhooks is asked on the way.
func metal3OnlyGuards(s *scene) {
	s.takingPool()
	before := s.ofMetal3()
	s.create(s.pooled("cp-0"))
	s.isTakenBy("cp-0")
	if after := s.ofMetal3(); after != before {
		s.Errorf("metal3 has made %d addresses, and %d before", after, before)
	}
}

// ofMetal3 is how many addresses are there that were not taken.
func (s *scene) ofMetal3() int {
	s.Helper()
	return len(slices.DeleteFunc(s.addresses(), ipam.IsTaken))
}

func metal3IsAskedWhereItMust(s *scene) {
	asked := func(what, pool string, options ...harness.Option) {
		s.Helper()
		name := "cp-" + pool
		s.eventually("machine "+name+" to be created", func(ctx context.Context) error {
			return s.env.Client.Create(ctx, harness.Machine(s.ns, name, append([]harness.Option{harness.WithPool(pool)}, options...)...))
		})
		if taken := s.takenFor(name); taken != nil {
			s.Errorf("%s: %s was taken", what, taken.GetName())
		}
		if _, err := s.claim(name); err != nil {
			s.Errorf("%s: %v", what, err)
		}
	}
	s.takingPool(harness.PoolNamed("twins"), harness.PoolRange("10.16.56.40", "10.16.56.49"))
	claim := harness.AddressClaim(s.ns, "another", "IPPool", "twins")
	claim.Spec.PoolRef.APIGroup = ipamv1.GroupVersion.Group
	s.create(claim)
	s.untilAsked("twins")
	asked("an IPAddressClaim names the pool", "twins")

	s.takingPool(harness.PoolNamed("named"), harness.PoolRange("10.16.56.20", "10.16.56.29"))
	foreign := s.takenLike("named", "10.16.56.25")
	foreign.SetName("by-hand")
	s.create(foreign)
	s.untilAsked("named")
	asked("an address has another name than metal3 gives it", "named")

	s.takingPool(harness.PoolNamed("given"), harness.PoolRange("10.16.56.30", "10.16.56.39"))
	asked("a machine asks for a given address", "given", withPoolOf("0", "given=10.16.56.33"))
}

// takenLike is an address of a pool as somebody makes it by hand.
func (s *scene) takenLike(pool, ip string) *ipamv1.IPAddress {
	s.Helper()
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns}}
	address.Spec.Pool.Name, address.Spec.Pool.Namespace = pool, s.ns
	address.Spec.Claim.Name, address.Spec.Claim.Namespace = "somebodys", s.ns
	address.Spec.Address, address.Spec.Prefix = ipamv1.IPAddressStr(ip), 24
	return address
}

// untilAsked waits until no replica takes addresses of a pool any more.
func (s *scene) untilAsked(pool string) {
	s.Helper()
	for i, replica := range s.env.managers {
		tries := 0
		s.eventually(replica.Name+" to ask metal3 for addresses of "+pool, func(context.Context) error {
			name := fmt.Sprintf("cold-%s-%d-%d", pool, i, tries)
			tries++
			answer, taken := s.probe(replica, name, pool)
			if !answer.Allowed || taken != nil {
				return errors.New("it takes them")
			}
			return nil
		})
	}
}
