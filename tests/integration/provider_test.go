package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// One control plane, whose provider is stopped, frozen, and at last played by
// the test. Its replicas are told apart.
func TestProviderThatDoesNotServe(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 2)
	t.Run("stopped", func(t *testing.T) { stoppedProviderIsDenied(newScene(t, env)) })
	t.Run("frozen", func(t *testing.T) { frozenProviderIsDenied(newScene(t, env)) })
	if err := env.metal3.RemoveWebhooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Run("frozen, and its webhooks not installed", func(t *testing.T) { boundByNobodyIsDenied(newScene(t, env)) })
	t.Run("of many creates, few claim", func(t *testing.T) { fewClaimsWait(newScene(t, env)) })
	t.Run("a create that is cut off and sent again through another replica", func(t *testing.T) { createSentAgain(newScene(t, env)) })
	t.Run("in a namespace that is being deleted", func(t *testing.T) { terminatingNamespaceIsDenied(bareScene(t, env)) })

	if err := env.metal3.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Run("answers with an address outside the pool", func(t *testing.T) { addressOutsideThePoolIsDenied(newScene(t, env)) })
	t.Run("finds a pool full that was chosen", func(t *testing.T) { poolThatFillsUpMeanwhileLeavesNoClaim(newScene(t, env)) })
	t.Run("answers with an address in deletion", func(t *testing.T) { addressInDeletionIsDenied(newScene(t, env)) })
	t.Run("answers with an address of another claim", func(t *testing.T) { addressOfAnotherClaimIsNotTaken(newScene(t, env)) })
}

func stoppedProviderIsDenied(s *scene) {
	s.create(harness.Pool(s.ns))
	if err := s.env.metal3.Stop(); err != nil {
		s.Fatal(err)
	}

	s.denyMachines(`no claim can be made on IPPool "dkp-cluster" in namespace "NAMESPACE": `+
		`is the IPAM controller of ipam.metal3.io running? Start it, or see its log`, harness.WithPool(harness.DefaultPool))

	s.expectNoClaims()
	if err := s.env.metal3.Start(s.Context()); err != nil {
		s.Fatal(err)
	}
}

// The API server waits in vain for the provider's webhook, and so do we.
func frozenProviderIsDenied(s *scene) {
	s.create(harness.Pool(s.ns))
	s.env.metal3.Pause()
	defer s.env.metal3.Resume()

	s.denyMachines(`IPPool "dkp-cluster" in namespace "NAMESPACE" has not bound a claim in time: `+
		`is the IPAM controller of ipam.metal3.io running? Start it, or see its log`, harness.WithPool(harness.DefaultPool))

	s.expectNoClaims()
}

func boundByNobodyIsDenied(s *scene) {
	pool := harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.188"))
	s.create(pool)
	s.isServed(pool)
	s.env.metal3.Pause()
	resume := sync.OnceFunc(s.env.metal3.Resume)
	defer resume()

	s.denyMachines(`IPPool "dkp-cluster" in namespace "NAMESPACE" has not bound a claim in time: `+
		`is the IPAM controller of ipam.metal3.io running? Start it, or see its log`, harness.WithPool(harness.DefaultPool))

	for _, claim := range s.claims() {
		if claim.GetDeletionTimestamp().IsZero() {
			s.Errorf("claim %s is not being deleted", claim.GetName())
		}
	}
	resume()
	s.noClaims()
}

// A provider that has many claims before it may serve them in any order. The
// creates that come first are to be served first, so the others claim later.
func fewClaimsWait(s *scene) {
	const few, many = 4, 10
	replica := s.onlyReplica()
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.188")))
	s.env.metal3.Pause()
	defer s.env.metal3.Resume()

	creates := make([]<-chan error, many)
	for i := range creates {
		creates[i] = s.createLater(harness.Machine(s.ns, fmt.Sprintf("cp%d", i), harness.WithPool(harness.DefaultPool)))
	}
	s.eventually("all creates to be in admission", func(ctx context.Context) error {
		inFlight, err := replica.Metric(ctx, "controller_runtime_webhook_requests_in_flight", nil)
		if err == nil && inFlight != many {
			err = fmt.Errorf("%v are", inFlight)
		}
		return err
	})
	s.consistently("few claims wait", func(context.Context) error {
		if claims := len(s.claims()); claims > few {
			return fmt.Errorf("there are %d claims", claims)
		}
		return nil
	})
	s.env.metal3.Resume()

	for i, created := range creates {
		if err := <-created; err != nil {
			s.Errorf("create %d: %v", i, err)
		}
	}
	if claims := len(s.claims()); claims != many {
		s.Errorf("%d machines have %d claims", many, claims)
	}
}

// onlyReplica has the API server call one replica only, until the test ends.
func (s *scene) onlyReplica() *harness.Manager {
	s.Helper()
	only, other := s.env.managers[0], s.env.managers[1]
	s.sendTrafficTo(only)
	s.Cleanup(func() { s.env.Forwarder.SetBackends(only.WebhookAddress, other.WebhookAddress) })
	return only
}

// The first replica learns only when it wakes up that its connection is cut: by
// then the claim is used by another request.
func createSentAgain(s *scene) {
	// The leader, which started first, must not be paused.
	first, second := s.env.managers[1], s.env.managers[0]
	defer s.env.Forwarder.SetBackends(first.WebhookAddress, second.WebhookAddress)
	s.create(harness.Pool(s.ns))
	s.env.metal3.Pause()
	defer s.env.metal3.Resume()

	s.sendTrafficTo(first)
	cutOff := s.createLater(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	claim, stamp := s.stampedBy(cutOff, "cp-0", "")
	decided, takenBack := s.admissions(first), s.takenBack(first)
	first.Pause()
	defer first.Resume()
	s.sendTrafficTo(second)
	if err := <-cutOff; !apierrors.IsInternalError(err) {
		s.Fatalf("the create that was cut off: got the error %v, want that the webhook failed", err)
	}
	sentAgain := s.createLater(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	_, newStamp := s.stampedBy(sentAgain, "cp-0", stamp)
	first.Resume()
	s.eventually("the first replica to be done with its clean-up", func(context.Context) error {
		if s.admissions(first) == decided {
			return errors.New("it is still at work")
		}
		return nil
	})
	if taken := s.takenBack(first) - takenBack; taken != 0 {
		s.Errorf("the first replica took back %v claims, want none", taken)
	}
	s.env.metal3.Resume()
	if err := <-sentAgain; err != nil {
		s.Fatal(err)
	}

	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
	s.settled("cp-0")
	after, err := s.claim("cp-0")
	if err != nil {
		s.Fatal(err)
	}
	stampAfter := after.GetAnnotations()[ipam.LastUsedAnnotation]
	if claims := s.claims(); len(claims) != 1 || after.GetUID() != claim.GetUID() || stampAfter != newStamp {
		s.Errorf("got the claims %v, of cp-0 %s with the stamp %q, want %s alone with the stamp %q",
			names(claims), after.GetUID(), stampAfter, claim.GetUID(), newStamp)
	}
	if addresses := s.addresses(); len(addresses) != 1 {
		s.Errorf("got the addresses %v, want one", names(addresses))
	}
}

// stampedBy waits until the claim of a machine has another stamp than this, from a
// create that is under way: one that has ended stamps nothing any more.
func (s *scene) stampedBy(create <-chan error, machine, not string) (claim client.Object, stamp string) {
	s.Helper()
	s.eventually("the claim of "+machine+" to be stamped", func(context.Context) (err error) {
		if claim, err = s.claim(machine); err == nil {
			if stamp = claim.GetAnnotations()[ipam.LastUsedAnnotation]; stamp != not {
				return nil
			}
			err = fmt.Errorf("its stamp is %q", stamp)
		}
		select {
		case ended := <-create:
			s.Fatalf("the create of %s ended (%v) before it stamped its claim: %v", machine, ended, err)
		default:
		}
		return err
	})
	return claim, stamp
}

// takenBack counts the claims that a replica has taken back.
func (s *scene) takenBack(replica *harness.Manager) float64 {
	s.Helper()
	count, err := replica.Metric(s.Context(), "capv_static_ip_claims_taken_back_total", nil)
	if err != nil {
		s.Fatal(err)
	}
	return count
}

// The API server itself refuses what is new in a namespace that is being
// deleted. A machine that was let through just before is refused by us.
func terminatingNamespaceIsDenied(s *scene) {
	s.create(harness.Pool(s.ns))
	s.env.ControllerManager().Pause()
	defer s.env.ControllerManager().Resume()
	s.delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}})

	for i := range tries {
		machine := harness.Machine(s.ns, refusedName(i), harness.WithPool(harness.DefaultPool))
		response := s.ask(s.env.managers[0], s.creation(machine.Name, s.manifest(machine)))
		want := s.text(`namespace "NAMESPACE" is being deleted: nothing can be claimed in it; use another namespace`)
		if response.Allowed || response.Result.Message != want {
			s.Errorf("got the response %+v (%v), want %q", response, response.Result, want)
		}
		err := s.env.Client.Create(s.Context(), machine)
		if want := "because it is being terminated"; err == nil || !strings.HasSuffix(err.Error(), want) {
			s.Errorf("got the error %v, want one that ends in %q", err, want)
		}
	}

	s.expectNoClaims()
}
