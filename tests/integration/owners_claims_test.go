package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/tests/harness"
)

// raw is a machine as the API server would send it.
func (s *scene) raw(machine client.Object) []byte {
	s.Helper()
	text, err := json.Marshal(machine)
	if err != nil {
		s.Fatal(err)
	}
	return []byte(strings.ReplaceAll(string(text), sharedNetwork, sharedNetwork+" of "+s.ns))
}

// Another request for the same machine, which fails, comes while the API server
// has an answer and has not stored the machine yet.
func TestRequestThatFailsLeavesTheClaimOfAnotherThatWasAnswered(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns), harness.Claim(s.ns, "cp-0-1", harness.DefaultPool))
	one := harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool))
	two := harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()))
	if answer := s.ask(shared.managers[0], s.creation("cp-0", s.raw(one))); !answer.Allowed || len(answer.Patch) == 0 {
		t.Fatalf("got the answer %+v, want a patch", answer)
	}
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}

	if answer := s.ask(shared.managers[1], s.creation("cp-0", s.raw(two))); answer.Allowed {
		t.Fatal("the other request was admitted, although the claim for its second device is somebody's")
	}

	s.consistently("the claim that was the answer stays", func(context.Context) error {
		if now, err := s.claim("cp-0"); err != nil || now.GetUID() != claim.GetUID() || !now.GetDeletionTimestamp().IsZero() {
			return fmt.Errorf("got claim %s, want %s: %w", now.GetUID(), claim.GetUID(), err)
		}
		return nil
	})
	s.create(one)
	s.settled("cp-0")
}

func TestOwnerWhoseMachinesAreRefusedLaterHoldsOneAddressAtATime(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		s.rejectMarkedMachines()
		set := harness.MachineSet(s.ns, "md", "template")
		s.create(set)

		for i := range 7 {
			err := s.env.Client.Create(t.Context(), s.asks(f, fmt.Sprintf("md-%d", i), harness.WithOwner(set), harness.WithLabel(rejectedLabel, "")))
			if i > 0 && (err == nil || !strings.Contains(err.Error(), `an earlier machine of MachineSet "md" was given 10.16.5`)) {
				t.Errorf("try %d: got %v, want to be told that something after the webhook refuses", i, err)
			}
		}

		s.expectClaims(1)
		s.create(s.asks(f, "neighbour"))
		s.within(gracePeriod+harness.Soon, "the owner to be served when the address is back", func(ctx context.Context) error {
			return s.env.Client.Create(ctx, s.asks(f, "md-9", harness.WithOwner(set)))
		})
	})
}

// A replica that is killed leaves a claim that is bound and was no answer: nothing
// has refused the owner's machine.
func TestClaimOfAReplicaThatWasKilledDoesNotKeepItsOwnerWaiting(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	set := harness.MachineSet(s.ns, "md", "template")
	s.create(set)
	claim := harness.Claim(s.ns, "md-0-0", harness.DefaultPool)
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: s.ns, Name: "md-0"}})
	ipam.Use(claim, ipam.Stamp{Time: time.Now(), Request: "killed"})
	kube.SetAnnotation(claim, ipam.DeviceAnnotation, "0")
	kube.SetAnnotation(claim, ipam.RequestedByAnnotation, string(set.UID))
	s.create(claim)
	s.bind(claim)

	s.create(harness.Machine(s.ns, "md-1", harness.WithPool(harness.DefaultPool), harness.WithOwner(set)))
}

func TestOwnerThatMakesMachinesSideBySideGetsThemAll(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	set := harness.MachineSet(s.ns, "md", "template")
	s.create(set)

	var creates sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		creates.Go(func() {
			errs[i] = s.env.Client.Create(t.Context(), harness.Machine(s.ns, fmt.Sprintf("md-%d", i), harness.WithPool(harness.DefaultPool), harness.WithOwner(set)))
		})
	}
	creates.Wait()

	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// Nobody stores these machines: they are asked for at the replica itself. However
// long that takes, it does not reap the first of their claims before the last.
func TestMachinesThatNobodyStoresLeaveAddressesForOthers(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true}, 0)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	patient, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t, env)
	const bound, tried = 64, 80
	s.inClusterPool(harness.InClusterAddresses("10.16.57.10-10.16.57.200"))

	refused := ""
	for i := range tried {
		name := fmt.Sprintf("none-%d", i)
		answer := s.ask(patient, s.creation(name, s.raw(harness.Machine(s.ns, name, harness.WithPool(harness.DefaultInClusterPool)))))
		if !answer.Allowed {
			refused = answer.Result.Message
		}
	}

	if claims := s.claims(); len(claims) > bound+1 {
		t.Errorf("%d claims were made, want no more than about %d", len(claims), bound)
	}
	if want := s.text(`64 machines in namespace "NAMESPACE" were given addresses of ` + inClusterName + ` and then refused`); !strings.HasPrefix(refused, want) {
		t.Errorf("the last ones are told %q, want it to begin with %q", refused, want)
	}
	other := newScene(t, env)
	other.inClusterPool()
	other.create(other.inClusterMachine("cp-0"))

	// The addresses come back when the grace period is over.
	if err := patient.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: gracePeriod}); err != nil {
		t.Fatal(err)
	}
	s.within(gracePeriod+2*harness.Soon, "the claims to be reaped", func(context.Context) error {
		if claims := s.claims(); len(claims) > 0 {
			return fmt.Errorf("%d are left", len(claims))
		}
		return nil
	})
}

const (
	// slowRanges is a group of pools whose provider takes longer than a request.
	slowRanges = "slow." + rangeGroup
	// shortTime is more than the webhook asks for, and less than the provider takes.
	shortTime = 4 * time.Second
)

func TestSlowProviderServesTheNextMachineOfTheOwner(t *testing.T) {
	s := newScene(t, shared)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))
	s.installRanges(slowRanges)
	s.grantRanges(slowRanges)
	s.create(newRange(slowRanges, s.ns))
	waiting := make(chan *capiipamv1.IPAddressClaim, 1)
	stop := s.playContract(func(_ context.Context, claim *capiipamv1.IPAddressClaim) error {
		waiting <- claim
		return nil
	})
	defer stop()
	set := harness.MachineSet(s.ns, "md", "template")
	s.create(set)
	machine := func(name string) client.Object {
		return harness.Machine(s.ns, name, withPoolOf("0", "Range."+slowRanges+"/lab"), harness.WithOwner(set))
	}
	hasty := s.client(func(config *rest.Config) { config.Timeout = shortTime })
	s.eventually("the kind to be served", func(ctx context.Context) error {
		err := hasty.Create(ctx, machine("md-0"))
		if err == nil || !strings.Contains(err.Error(), "has not bound a claim in time") {
			return fmt.Errorf("it is told %w", err)
		}
		return nil
	})

	claim := <-waiting
	if err := s.answersWith("10.16.63.88")(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	s.eventually("the next machine to be served", func(ctx context.Context) error { return s.env.Client.Create(ctx, machine("md-1")) })

	if got := s.ip("md-1"); got != "10.16.63.88" {
		t.Errorf("it got %s, want the address that was bound for the one before", got)
	}
	if claims := s.claims(); len(claims) != 1 || claims[0].GetUID() != claim.UID {
		t.Errorf("%d claims are there, want the one of the first try", len(claims))
	}
	s.eventually("the claim to be the machine's", func(context.Context) error {
		if owners := s.claims()[0].GetOwnerReferences(); len(owners) != 1 || owners[0].Name != "md-1" {
			return fmt.Errorf("its owners are %v", owners)
		}
		return nil
	})
}

// Somebody offered a claim of theirs to one machine, by name. It is nobody else's,
// not even if the request of that machine ran out of time.
func TestClaimThatWasOfferedToAMachineIsNotKeptForAnother(t *testing.T) {
	t.Parallel()
	const offeredRanges = "offered." + rangeGroup
	s := newScene(t, shared)
	s.installRanges(offeredRanges)
	s.grantRanges(offeredRanges)
	s.create(newRange(offeredRanges, s.ns))
	offered := harness.AddressClaim(s.ns, "md-0-0", "Range", "lab", harness.WithAnnotation(ipam.ForAnnotation, "md-0"))
	offered.Spec.PoolRef.APIGroup = offeredRanges
	s.create(offered)
	stop := s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		if claim.Name == offered.Name {
			return nil
		}
		return s.answersWith("10.16.64.89")(ctx, claim)
	})
	defer stop()
	set := harness.MachineSet(s.ns, "md", "template")
	s.create(set)
	machine := func(name string) client.Object {
		return harness.Machine(s.ns, name, harness.WithCluster(""), withPoolOf("0", "Range."+offeredRanges+"/lab"), harness.WithOwner(set))
	}
	hasty := s.client(func(config *rest.Config) { config.Timeout = shortTime })
	s.eventually("the request to run out of time", func(ctx context.Context) error {
		err := hasty.Create(ctx, machine("md-0"))
		if err == nil || !strings.Contains(err.Error(), "has not bound a claim in time") {
			return fmt.Errorf("it is told %w", err)
		}
		return nil
	})

	s.create(machine("md-1"))

	if got := s.ip("md-1"); got != "10.16.64.89" {
		t.Errorf("it got %s, want an address of its own", got)
	}
	s.within(gracePeriod+harness.Soon, "the offered claim to be its maker's again", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(offered), offered); err != nil {
			return err
		}
		for key := range offered.Annotations {
			if strings.HasPrefix(key, "capv-static-ip.dev/") && key != ipam.ForAnnotation {
				return fmt.Errorf("its annotations are %v", offered.Annotations)
			}
		}
		return nil
	})
	s.delete(offered)
}

// All of them have been let in before the first of them was refused. It is not
// parallel, so that nobody else keeps the provider busy.
func TestMachinesThatAreRefusedSideBySideLeaveAddressesForOthers(t *testing.T) {
	s := newScene(t, shared)
	const bound, claimAtATime, tried = 64, 4, 200
	s.inClusterPool(harness.InClusterAddresses("10.17.0.10-10.17.3.250"), harness.InClusterField(int64(16), "prefix"), harness.InClusterField("10.17.0.1", "gateway"))
	s.rejectMarkedMachines()
	create := func(name string, options ...harness.Option) error {
		return s.env.Client.Create(t.Context(), s.inClusterMachine(name, options...))
	}
	var creates sync.WaitGroup
	for i := range tried {
		creates.Go(func() { _ = create(fmt.Sprintf("refused-%d", i), harness.WithLabel(rejectedLabel, "")) })
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		creates.Wait()
	}()
	most := 0
	for running := true; running; most = max(most, len(s.claims())) {
		select {
		case <-done:
			running = false
		case <-time.After(gracePeriod / 100):
		}
	}
	t.Logf("there were %d claims at the most", most)
	if limit := bound + claimAtATime*len(shared.managers); most > limit {
		t.Errorf("there were %d claims without a machine, want %d at the most", most, limit)
	}
	s.within(2*gracePeriod+harness.Soon, "the addresses to be back", func(context.Context) error {
		if left := len(s.claims()); left > 0 {
			return fmt.Errorf("%d claims are left", left)
		}
		return nil
	})

	// As many machines that are stored are not taken for such.
	for i := range tried {
		creates.Go(func() {
			if err := create(fmt.Sprintf("stored-%d", i)); err != nil && strings.Contains(err.Error(), "then refused by something") {
				t.Errorf("machine %d: %v", i, err)
			}
		})
	}
	creates.Wait()
	if claims := len(s.claims()); claims <= bound {
		t.Errorf("%d machines were stored, want more than %d", claims, bound)
	}
}

// metal3 answers claims of two APIs from one pool, each by a controller that does
// not know of the latest of the other.
func TestAddressThatMetal3GivesTwiceIsGivenToOneMachineOnly(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	const pairs = 30
	s.create(harness.Pool(s.ns, harness.PoolRange("10.30.0.1", "10.30.0.250")))
	var group sync.WaitGroup
	for i := range pairs {
		claim := harness.AddressClaim(s.ns, fmt.Sprintf("other-%d", i), "IPPool", harness.DefaultPool)
		claim.Spec.PoolRef.APIGroup = "ipam.metal3.io"
		machine := harness.Machine(s.ns, fmt.Sprintf("m-%d", i), harness.WithPool(harness.DefaultPool))
		for _, object := range []client.Object{claim, machine} {
			group.Go(func() {
				if err := s.env.Client.Create(t.Context(), object); err != nil {
					t.Logf("creating %s: %v", object.GetName(), err)
				}
			})
		}
		group.Wait()
	}

	addresses := &capiipamv1.IPAddressList{}
	if err := s.env.Client.List(t.Context(), addresses, client.InNamespace(s.ns)); err != nil {
		t.Fatal(err)
	}
	others := map[string]string{}
	for _, address := range addresses.Items {
		others[address.Spec.Address] = address.Spec.ClaimRef.Name
	}
	shared := 0
	for i := range pairs {
		name := fmt.Sprintf("m-%d", i)
		if err := s.env.Client.Get(t.Context(), s.key(name), harness.Machine(s.ns, name)); err != nil {
			continue
		}
		if claim, twice := others[s.ip(name)]; twice {
			shared++
			t.Errorf("machine %s and claim %s both have %s", name, claim, s.ip(name))
		}
	}
	t.Logf("%d of %d machines share their address, beside %d claims", shared, pairs, len(others))
}

func TestProtectionForAnEarlierMachineOfTheNameIsNotTheNewOnes(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool(harness.InClusterAddresses(inClusterFirst))
	left := &capiipamv1.IPAddress{}
	left.Namespace, left.Name = s.ns, "cp-0-0"
	left.Finalizers = []string{ipam.InUseFinalizer}
	left.Annotations = map[string]string{ipam.MachineNameAnnotation: "cp-0", ipam.MachineUIDAnnotation: "of-an-earlier-one"}
	left.Spec.ClaimRef.Name = "cp-0-0"
	left.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: harness.DefaultInClusterPool}
	left.Spec.Address, left.Spec.Prefix = inClusterFirst, new(int32(24))
	vm := harness.VSphereVM(harness.Machine(s.ns, "cp-0", harness.WithDevices(harness.FixedDevice(inClusterFirst+"/24"))))
	vm.OwnerReferences = nil
	s.create(vm, left)

	err := s.env.Client.Create(t.Context(), s.inClusterMachine("cp-0"))

	if err == nil {
		t.Errorf("the next machine of the name was given %s, on which the VM of the earlier one answers", s.ip("cp-0"))
	}
	s.delete(vm)
}

func TestClaimsAreThoseOfTheClusterFromTheirFirstMoment(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	machine := harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), harness.WithLabel("cluster.x-k8s.io/watch-filter", "blue"))

	if answer := s.ask(shared.managers[0], s.creation("cp-0", s.raw(machine))); !answer.Allowed {
		t.Fatalf("got the answer %+v", answer)
	}

	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	if _, moves := claim.GetLabels()[clusterctlv1.ClusterctlMoveLabel]; !moves || claim.GetLabels()["cluster.x-k8s.io/watch-filter"] != "blue" {
		t.Errorf("its labels are %v, want those by which clusterctl and the controllers of the Cluster know it", claim.GetLabels())
	}
}
