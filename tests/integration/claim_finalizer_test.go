package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

const (
	// releaseAddress and protectPool are what the in-cluster provider puts on the claims
	// and the pools that it serves.
	releaseAddress = "ipam.cluster.x-k8s.io/ReleaseAddress"
	protectPool    = "ipam.cluster.x-k8s.io/ProtectPool"
	// notBound is what a machine is told whose claim nobody has bound.
	notBound = "has not bound a claim in time"
)

// onClaims is the finalizer that a provider puts on claims.
func onClaims(f harness.Fixture) string {
	if f.Is(harness.OfMetal3) {
		return ipamv1.IPClaimFinalizer
	}
	return releaseAddress
}

// isServed waits until a provider has looked at a pool.
func (s *scene) isServed(pool client.Object) {
	s.Helper()
	s.eventually("its provider to serve pool "+pool.GetName(), func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		counted := false
		switch pool := pool.(type) {
		case *ipamv1.IPPool:
			counted = pool.Status.LastUpdated != nil
		case *unstructured.Unstructured:
			_, counted, _ = unstructured.NestedMap(pool.Object, "status", "ipAddresses")
		}
		if len(pool.GetFinalizers()) == 0 || !counted {
			return fmt.Errorf("it has the finalizers %v; it is counted: %v", pool.GetFinalizers(), counted)
		}
		return nil
	})
}

// asMade are the claims of a scene as they were made, by name, in their order.
type asMade struct {
	mu     sync.Mutex
	claims map[string][]client.Object
}

// notesClaims notes how claims of a provider are made from now on.
func (s *scene) notesClaims(f harness.Fixture) *asMade {
	s.Helper()
	notes := &asMade{claims: map[string][]client.Object{}}
	note := func(_ context.Context, claim client.Object) error {
		notes.mu.Lock()
		defer notes.mu.Unlock()
		notes.claims[claim.GetName()] = append(notes.claims[claim.GetName()], claim)
		return nil
	}
	var list client.ObjectList = &capiipamv1.IPAddressClaimList{}
	if f.Is(harness.OfMetal3) {
		list = &ipamv1.IPClaimList{}
	}
	s.Cleanup(play(s, list, note))
	return notes
}

// expect waits until a claim of that name was made so often, and checks that the provider
// has found its finalizer on it each time.
func (n *asMade) expect(s *scene, f harness.Fixture, name string, times int) {
	s.Helper()
	s.eventually("claim "+name+" to be made", func(context.Context) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if made := len(n.claims[name]); made < times {
			return fmt.Errorf("it was made %d times", made)
		}
		return nil
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, claim := range n.claims[name] {
		if !slices.Contains(claim.GetFinalizers(), onClaims(f)) {
			s.Errorf("claim %s was made with the finalizers %v, want %s among them", name, claim.GetFinalizers(), onClaims(f))
		}
	}
}

// Whoever makes it: admission, the controller that serves what was stored without an
// address, or the one that makes claims anew.
func TestClaimsAreMadeWithTheFinalizerOfTheProviderThatServesTheirPool(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f, f.WithIPs(248, 253))
		s.isServed(pool)
		// By the time that this one is settled, the managers have seen that, too.
		s.create(s.asks(f, "first"))
		s.settled("first")
		made := s.notesClaims(f)

		s.create(s.asks(f, "cp-0"), harness.VSphereCluster(s.ns, "prod", endpointOf(f)))
		s.stored(s.asks(f, "late"))
		s.restored("restored", f.Reference(f.PoolName), f.IP(253))

		s.served("late", 1)
		s.eventually("the claim to come back with its address", func(context.Context) error { return s.isFullyAdopted("restored", f.IP(253)) })
		for _, claim := range []string{"cp-0-0", "prod", "late-0", "restored-0"} {
			made.expect(s, f, claim, 1)
		}
		if f.Is(harness.OfInCluster) {
			// The address of an endpoint goes with its claim there, which is not made anew
			// before that is gone.
			return
		}
		s.eventually("the endpoint to be held", func(context.Context) error {
			return s.endpointIsHeld("prod", s.vsphereCluster("prod").Spec.ControlPlaneEndpoint.Host)
		})
		claim, err := s.env.claimNamed(s, f, "prod")
		if err != nil {
			t.Fatal(err)
		}
		s.delete(claim)
		made.expect(s, f, "prod", 2)
	})
}

// Nobody would take it off, and it would hold up whatever is to go with the claim.
func TestClaimsThatTheirProviderDoesNotComeToGo(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 1)
	t.Run("at once, where there are but the definitions of its pools", func(t *testing.T) { claimsOfNobodyGo(bareScene(t, env)) })

	inCluster, err := env.StartInCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// They would refuse to make claims while metal3 is stopped.
	if err := env.metal3.RemoveWebhooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		harness.Fixture
		provider *harness.Provider
	}{{harness.OfMetal3, env.metal3.Provider}, {harness.OfInCluster, inCluster.Provider}} {
		t.Run("when it is back, with "+test.Name, func(t *testing.T) {
			claimsGoWhenTheirProviderIsBack(bareScene(t, env), test.Fixture, test.provider)
		})
	}
}

// claimsOfNobodyGo has a pool as it was made, and one that was restored or moved from where
// the provider was.
func claimsOfNobodyGo(s *scene) {
	s.inClusterPool()
	copied := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses("10.16.69.10"), harness.InClusterWith(harness.WithFinalizer(protectPool)))
	s.create(copied)
	defer func() {
		s.delete(copied)
		s.stripFinalizers(copied)
	}()
	answers := map[string]<-chan error{
		"made":   s.createLater(s.inClusterMachine("made")),
		"copied": s.createLater(harness.Machine(s.ns, "copied", withPoolOf("0", harness.GlobalInClusterPoolKind+"/"+s.ns))),
	}

	for name, answer := range answers {
		if err := <-answer; err == nil || !strings.Contains(err.Error(), notBound) {
			s.Errorf("machine %s: got %v, want it denied with %q", name, err, notBound)
		}
	}

	s.expectNoClaims()
	s.namespaceGoes()
}

func claimsGoWhenTheirProviderIsBack(s *scene, f harness.Fixture, provider *harness.Provider) {
	s.isServed(s.pool(f))
	s.create(s.asks(f, "first"))
	s.settled("first")
	if err := provider.Stop(); err != nil {
		s.Fatal(err)
	}

	s.refused(s.asks(f, "cp-0"), notBound)

	claim, err := s.claim("cp-0")
	if err != nil {
		s.Fatal(err)
	}
	if finalizers := claim.GetFinalizers(); claim.GetDeletionTimestamp().IsZero() || !slices.Equal(finalizers, []string{onClaims(f)}) {
		s.Errorf("the claim is being deleted since %v, with the finalizers %v; want that it is, and waits for its provider alone",
			claim.GetDeletionTimestamp(), finalizers)
	}
	s.refused(s.asks(f, "cp-0"), "is still being deleted")
	s.delete(s.namespace())
	if err := provider.Start(s.Context()); err != nil {
		s.Fatal(err)
	}
	s.namespaceGoes()
}

func (s *scene) namespace() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
}

// namespaceGoes deletes the namespace, if that was not done yet, and waits until nothing
// in it holds that up any more. Who deletes what is in it tries ever more rarely.
func (s *scene) namespaceGoes() {
	s.Helper()
	if err := s.env.Client.Delete(s.Context(), s.namespace()); client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	if err := harness.WaitGone(s.Context(), s.env.Client, s.namespace(), 4*harness.Soon); err != nil {
		s.Fatal(err)
	}
}

// claimsOnARangeHaveNoFinalizer has a pool that looks as one of the in-cluster provider's does.
func claimsOnARangeHaveNoFinalizer(s *scene) {
	pool := newRange(rangeGroup, s.ns)
	harness.WithFinalizer(protectPool)(pool)
	s.create(pool)
	defer func() {
		s.delete(pool)
		s.stripFinalizers(pool)
	}()
	s.countRange(pool, int64(1), int64(1))
	var finalizers []string
	stop := s.playContract(func(ctx context.Context, claim *capiipamv1.IPAddressClaim) error {
		finalizers = append(finalizers, claim.Finalizers...)
		return s.answersWith("10.16.59.88")(ctx, claim)
	})
	machine := s.rangeMachine("cp-0")
	s.create(machine)
	s.settled("cp-0")
	stop()
	if len(finalizers) > 0 {
		s.Errorf("the claim was made with the finalizers %v, want none", finalizers)
	}
	s.delete(machine)
	s.gone(machine)
	s.noClaims()
}
