package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

func TestSameNameTwiceIsAConflictAndLeavesTheClaimAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.88")))
	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	atOnce, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}

	// The controller may be at work on the claim now: only the stamp stays.
	s.expectConflict("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	stamp := atOnce.GetAnnotations()[ipam.LastUsedAnnotation]
	if got := claim.GetAnnotations()[ipam.LastUsedAnnotation]; stamp == "" || got != stamp || claim.GetUID() != atOnce.GetUID() {
		t.Errorf("claim %s (%s) has the stamp %q, it was %q on %s", claim.GetName(), claim.GetUID(), got, stamp, atOnce.GetUID())
	}

	// Nobody works on it any more: nothing changes.
	s.settled("cp-0")
	before, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	for range tries {
		s.expectConflict("cp-0")
	}
	after, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	expectSame(s, "the claim of the living machine", after, before)
	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
}

// expectConflict creates a machine of a name that is taken. It is denied: the one that is
// there could be gone before the new one is stored, without an address.
func (s *scene) expectConflict(name string) {
	s.Helper()
	err := s.env.Client.Create(s.Context(), harness.Machine(s.ns, name, harness.WithPool(harness.DefaultPool)))
	if !apierrors.IsAlreadyExists(err) || !strings.Contains(err.Error(), "denied the request") {
		s.Fatalf("got the error %v, want one of admission that machine %s exists already", err, name)
	}
}

func TestManifestCopiedWithItsBindingsIsDenied(t *testing.T) {
	t.Parallel()
	const denial = `annotation capv-static-ip.dev/bindings names claim "cp-0-0", which belongs to VSphereMachine "cp-0": ` +
		`remove the annotation and the copied ipAddrs, so that the machine gets addresses of its own`
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns), harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))

	// The claim says whose it is before it has an owner, and after.
	s.expectDenial(s.env.Client.Create(t.Context(), s.copyOf("cp-0", "copy")), denial)
	s.settled("cp-0")
	for i := range tries {
		s.expectDenial(s.env.Client.Create(t.Context(), s.copyOf("cp-0", refusedName(i))), denial)
	}
	s.expectDenial(s.env.Client.Create(t.Context(), s.copyOf("cp-0", "copy"), client.DryRunAll), denial)

	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
	if claims := s.claims(); len(claims) != 1 {
		t.Errorf("got the claims %v, want that of cp-0 alone", names(claims))
	}
}

// copyOf is what somebody gets who stores a machine's manifest under another name.
func (s *scene) copyOf(name, other string) client.Object {
	s.Helper()
	manifest, err := harness.Unstructured(s.machine(name))
	if err != nil {
		s.Fatal(err)
	}
	manifest.SetName(other)
	return manifest
}

// copyThatGotIn is played where the webhook was away for a while.
func copyThatGotIn(t *testing.T, env *environment) {
	s := newScene(t, env)
	s.create(harness.Pool(s.ns), harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	ip := s.settled("cp-0")
	before, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	if err := env.RemoveWebhook(t.Context()); err != nil {
		t.Fatal(err)
	}
	copied := s.copyOf("cp-0", "copy")
	s.create(copied)
	if err := env.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.eventually("the API server to call the webhook again", func(ctx context.Context) error {
		err := env.Client.Create(ctx, s.copyOf("cp-0", "another"), client.DryRunAll)
		if err != nil && strings.HasPrefix(err.Error(), denied) {
			return nil
		}
		return errors.Join(errors.New("another copy is not denied"), err)
	})
	if got := s.ip("copy"); got != ip {
		t.Fatalf("the copy has %s, want %s as the original", got, ip)
	}

	s.delete(copied)

	s.gone(copied)
	s.consistently("the original keeps its claim as it was", func(context.Context) error {
		if err := s.isHeld("cp-0", ip); err != nil {
			return err
		}
		after, err := s.claim("cp-0")
		if err == nil && after.GetResourceVersion() != before.GetResourceVersion() {
			err = fmt.Errorf("the claim was changed: it was\n%+v\nand is\n%+v", before, after)
		}
		return err
	})
	s.create(harness.Machine(s.ns, "next", harness.WithPool(harness.DefaultPool)))
	if next := s.ip("next"); next == ip {
		t.Errorf("the next machine got %s as well", next)
	}
}
