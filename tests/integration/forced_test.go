package integration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/tests/harness"
)

// forceAway takes a paused machine and its claim away by force, the claim first,
// so that nobody but us can give its address back.
func (s *scene) forceAway(machine, claim client.Object) {
	s.Helper()
	s.annotate(machine, "cluster.x-k8s.io/paused", new(""))
	for _, object := range []client.Object{claim, machine} {
		if err := s.env.Client.Delete(s.Context(), object); client.IgnoreNotFound(err) != nil {
			s.Fatal(err)
		}
		s.stripFinalizers(object)
	}
}

func TestAddressWhoseClaimWasForcedAwayComesBack(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, f.WithIPs(88, 88))
		machine := s.asks(f, "cp-0", harness.WithFinalizer(harness.MachineFinalizer))
		s.create(machine)
		address, err := s.address(s.settled("cp-0"))
		if err != nil {
			t.Fatal(err)
		}
		// The in-cluster provider does not look at claims of a paused pool.
		if f.Is(harness.OfInCluster) {
			s.annotate(pool, "cluster.x-k8s.io/paused", new(""))
		}

		s.forceAway(machine, f.Claim(s.ns, "cp-0-0", f.PoolName))

		s.within(gracePeriod+harness.Soon, "the address to be deleted", s.isGone(address))
		if f.Is(harness.OfInCluster) {
			s.annotate(pool, "cluster.x-k8s.io/paused", nil)
		}
		// The name can be used again.
		s.create(s.asks(f, "cp-0"))
		s.settled("cp-0")
	})
}

// metal3 names the address of an earlier claim of that name in every new one.
func TestStaleAddressInTheWayIsNamed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	machine := s.pooled("cp-0")
	s.create(machine)
	ip := s.settled("cp-0")
	address, err := s.address(ip)
	if err != nil {
		t.Fatal(err)
	}
	claim := harness.Claim(s.ns, "cp-0-0", harness.DefaultPool)
	s.annotate(machine, "cluster.x-k8s.io/paused", new(""))
	for _, object := range []client.Object{claim, s.machine("cp-0")} {
		s.deleteForMove(object)
		s.stripFinalizers(object)
	}
	s.eventually("the address to be unprotected", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(address), address); err != nil {
			return err
		}
		if len(address.GetFinalizers()) != 1 {
			return fmt.Errorf("its finalizers are %v", address.GetFinalizers())
		}
		return nil
	})

	s.expectDenial(s.env.Client.Create(t.Context(), s.pooled("cp-0")), fmt.Sprintf(
		`address %q in namespace "NAMESPACE", which is of an earlier claim "cp-0-0", is in the way: `+
			`delete it if nothing uses %s any more, or give the machine another name`, address.GetName(), ip))

	if err := client.IgnoreNotFound(s.env.Client.Delete(t.Context(), address)); err != nil {
		t.Fatal(err)
	}
	s.stripFinalizers(address)
	s.eventually("the name to be of use again", func(ctx context.Context) error { return s.env.Client.Create(ctx, s.pooled("cp-0")) })
	s.settled("cp-0")
}

// Whoever may write machines may write annotations.
func TestForgedBindingsClaimNothingAndHoldUpNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	machine := harness.Machine(s.ns, "cp-0", harness.WithDevices(harness.DHCPDevice()))
	s.create(machine)
	binding := func(claim, ip string) string {
		return fmt.Sprintf(`{"device":{"index":0},"pool":{"apiGroup":"ipam.metal3.io","kind":"IPPool","name":%q},"claim":%q,"address":"%s/24"}`,
			harness.DefaultPool, claim, ip)
	}
	forge := func(bindings ...string) {
		s.annotate(machine, ipam.BindingsAnnotation, new(`{"machine":"cp-0","bindings":[`+strings.Join(bindings, ",")+`]}`))
	}

	forge(binding("cp-0-0", "10.16.56.88"), binding("anything-0", "10.16.56.89"), binding("anything-1", "10.16.56.90"))
	// A claim that is recreated shows that the controller has come to them.
	s.restored("witness", metal3.PoolNamed(harness.DefaultPool), "10.16.56.93")
	s.eventually("the claim of the witness to be recreated", func(context.Context) error { return s.isFullyAdopted("witness", "10.16.56.93") })
	s.consistently("nothing else is claimed", func(context.Context) error {
		if claims := s.claims(); len(claims) != 1 {
			return fmt.Errorf("there are the claims %v", names(claims))
		}
		return nil
	})

	for _, bindings := range []string{`{}`, binding("no/name", "10.16.56.88"), binding("", "10.16.56.88")} {
		forge(bindings)
	}
	s.change(machine, func() { harness.WithFinalizer(ipam.ReleaseFinalizer)(machine) })
	s.delete(machine)
	s.gone(machine)
}

// metal3 guards its objects by webhooks, which refuse everything while it is down.
func TestMachineGoesAlthoughItsProviderIsDown(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 1)
	s := newScene(t, env)
	s.create(harness.Pool(s.ns))
	ips := map[metav1.DeletionPropagation]string{}
	machines := map[metav1.DeletionPropagation]*capvv1.VSphereMachine{}
	for name, policy := range map[string]metav1.DeletionPropagation{
		"cp-0": metav1.DeletePropagationBackground, "cp-1": metav1.DeletePropagationForeground,
	} {
		machines[policy] = s.pooled(name, harness.WithFinalizer(harness.MachineFinalizer))
		s.create(machines[policy])
		ips[policy] = s.settled(name)
	}
	if err := env.metal3.Stop(); err != nil {
		t.Fatal(err)
	}

	for policy, machine := range machines {
		s.delete(machine, client.PropagationPolicy(policy))
		s.dropFinalizer(machine, harness.MachineFinalizer)
	}
	for policy, machine := range machines {
		if err := harness.WaitGone(t.Context(), env.Client, machine, recreateTime); err != nil {
			t.Fatalf("deleted in the %s: %v", policy, err)
		}
		if err := s.isProtected(ips[policy]); err != nil {
			t.Errorf("its address: %v", err)
		}
		s.told(machine.Name, "AddressKept")
	}

	if err := env.metal3.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The garbage collector, which deletes the claims, tries ever more rarely.
	for _, ip := range ips {
		s.within(4*harness.Soon, ip+" to be back in its pool", s.isReturned(ip))
	}
	s.noClaims()
}

// The in-cluster provider keeps a claim for as long as its address is not to be
// used again. The garbage collector would keep the machine for as long, if the claim
// were one that holds it up. Here something else holds it up for a moment, so that
// what was released is looked at again.
func TestMachineDeletedInTheForegroundIsReleasedOnceAndDoesNotWaitForTheReuseOfItsAddress(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true}, 1)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newScene(t, env)
	s.inClusterPool(harness.InClusterField(int64(300), "addressReuseGracePeriodSeconds"))
	machine := s.inClusterMachine("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.create(machine)
	ip := s.settled("cp-0")
	holder := s.holdsUp(machine)

	s.delete(machine, client.PropagationPolicy(metav1.DeletePropagationForeground))
	s.dropFinalizer(machine, harness.MachineFinalizer)
	s.told("cp-0", "AddressReleased")
	s.eventually("the finalizer to be off", func(context.Context) error {
		if finalizers := s.machine("cp-0").Finalizers; slices.Contains(finalizers, ipam.ReleaseFinalizer) {
			return fmt.Errorf("the machine has the finalizers %v", finalizers)
		}
		return nil
	})
	reconciled := s.reconciles()
	for i := range 3 {
		s.annotate(machine, "example.org/look", new(strconv.Itoa(i)))
		s.eventually("it to be looked at again", func(context.Context) error {
			if now := s.reconciles(); now == reconciled {
				return fmt.Errorf("it was reconciled %v times", now)
			}
			return nil
		})
		reconciled = s.reconciles()
	}

	if count := s.metric("capv_static_ip_claims_released_total", nil); count != 1 {
		t.Errorf("it was released %v times, want once", count)
	}
	s.dropFinalizer(holder, hold)
	s.gone(machine)
	if _, err := s.address(ip); err != nil {
		t.Errorf("the provider does not keep the address: %v", err)
	}
	if count := s.metric("capv_static_ip_claims_released_total", nil); count != 1 {
		t.Errorf("it was released %v times in all, want once", count)
	}
}

// holdsUp makes a dependent of a machine for which a deletion in the foreground
// waits.
func (s *scene) holdsUp(machine *capvv1.VSphereMachine) client.Object {
	s.Helper()
	holder := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "holder"}}
	harness.WithOwner(machine)(holder)
	holder.OwnerReferences[0].BlockOwnerDeletion = new(true)
	// The garbage collector finds no owner in a version that is not served.
	holder.OwnerReferences[0].APIVersion = capvv1.GroupName + "/" + s.env.served("v1beta2")
	harness.WithFinalizer(hold)(holder)
	s.create(holder)
	return holder
}

// reconciles counts those of the lifecycle controller.
func (s *scene) reconciles() float64 {
	s.Helper()
	return s.metric("controller_runtime_reconcile_total", map[string]string{"controller": "lifecycle"})
}

// Claims that wait on another pool, or that no request of ours waits for, delay
// nobody's adoption. Whoever may write claims may make one look like a request's:
// that delays it by seconds.
func TestClaimsThatNobodyWaitsForDoNotDelayAdoption(t *testing.T) {
	t.Parallel()
	t.Run("on the pool of another namespace", func(t *testing.T) {
		t.Parallel()
		hog, s := newScene(t, shared), newScene(t, shared)
		pool := harness.Pool(hog.ns, harness.PoolWith(func(pool *ipamv1.IPPool) { pool.Spec.ClusterName = new("missing") }))
		hog.create(pool)
		for i := range 8 {
			claim := harness.Claim(hog.ns, ipam.ClaimName(hogOf(i), ipam.Slot{Device: 0}), harness.DefaultPool)
			likeOneOfARequest(claim, hogOf(i))
			hog.create(claim)
		}
		s.create(harness.Pool(s.ns), s.pooled("cp-0"))
		ip := s.ip("cp-0")
		s.within(promptly, "the machine to be adopted", func(context.Context) error { return s.isFullyAdopted("cp-0", ip) })
	})
	for name, test := range map[string]struct {
		mark   func(claim client.Object, machine string)
		within time.Duration
	}{
		"on the same pool, as anybody makes them": {
			mark:   func(claim client.Object, _ string) { kube.SetAnnotation(claim, ipam.RequestedByAnnotation, "none") },
			within: promptly,
		},
		"on the same pool, like those of requests": {mark: likeOneOfARequest, within: promptly + 10*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.inClusterPool()
			for i := range 8 {
				claim := harness.AddressClaim(s.ns, ipam.ClaimName(hogOf(i), ipam.Slot{Device: 0}), harness.InClusterPoolKind, harness.DefaultInClusterPool)
				// The provider leaves it as it is.
				harness.WithAnnotation("cluster.x-k8s.io/paused", "")(claim)
				test.mark(claim, hogOf(i))
				s.create(claim)
				s.Cleanup(func() {
					if err := s.env.Client.Delete(context.Background(), claim); client.IgnoreNotFound(err) != nil {
						t.Error(err)
					}
				})
			}
			s.create(s.inClusterMachine("cp-0"))
			ip := s.ip("cp-0")
			s.within(test.within, "the machine to be adopted", func(context.Context) error { return s.isAdopted("cp-0", ip) })
		})
	}
}

// promptly is how long the adoption of a machine may take that nothing delays: a
// change waits a second for others to come with it.
const promptly = 8 * time.Second

func hogOf(i int) string { return fmt.Sprintf("hog-%d", i) }

// likeOneOfARequest marks a claim as a request does, and for long.
func likeOneOfARequest(claim client.Object, machine string) {
	kube.SetAnnotation(claim, ipam.RequestedByAnnotation, "none")
	kube.SetAnnotation(claim, ipam.MachineNameAnnotation, machine)
	kube.SetLabel(claim, ipam.MachineLabel, ipam.MachineLabelValue(machine))
	ipam.Use(claim, ipam.Stamp{Time: time.Now().Add(20 * time.Second), Request: "request"})
}

// A claim that is deleted in the moment in which metal3 binds it leaves its
// address, which metal3 names in the next claim of that name.
func TestAddressThatATryLeftIsThatOfTheNextTry(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	left := addressFor(harness.Claim(s.ns, "cp-0-0", harness.DefaultPool), "10.16.56.90")
	left.GenerateName, left.Name, left.OwnerReferences = "", "dkp-cluster-10-16-56-90", nil
	left.Labels = map[string]string{ipam.MachineLabel: ipam.MachineLabelValue("cp-0")}
	left.Annotations = map[string]string{ipam.MachineNameAnnotation: "cp-0"}
	left.Finalizers = []string{ipam.InUseFinalizer}
	s.create(left)
	s.knownToMetal3(left)

	s.create(s.pooled("cp-0"))

	if got := s.settled("cp-0"); got != "10.16.56.90" {
		t.Errorf("the machine has %s, want what the try before left", got)
	}
}

// knownToMetal3 waits until metal3's cache has an address of the default pool: whenever
// the pool changes, metal3 writes into it what it has.
func (s *scene) knownToMetal3(address *ipamv1.IPAddress) {
	s.Helper()
	pool := &ipamv1.IPPool{}
	pool.Namespace, pool.Name = s.ns, harness.DefaultPool
	looked := 0
	s.eventually("metal3 to know "+address.Name, func(context.Context) error {
		looked++
		s.annotate(pool, usersAnnotation, new(strconv.Itoa(looked)))
		if got := pool.Status.Allocations[address.Spec.Claim.Name]; got != address.Spec.Address {
			return fmt.Errorf("it has given the claim %q", got)
		}
		return nil
	})
}
