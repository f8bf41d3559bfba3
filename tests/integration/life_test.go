package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/tests/harness"
)

// watched is how long a test looks at what must not change. What would change
// it is an event that has happened already, so a controller that is wrong
// acts within milliseconds.
const watched = time.Second

// consistently watches that a condition holds, and fails the test when it ceases to.
func (s *scene) consistently(what string, condition func(context.Context) error) {
	s.Helper()
	if err := harness.Consistently(s.Context(), watched, what, condition); err != nil {
		s.Fatal(err)
	}
}

// within is eventually with a deadline of its own.
func (s *scene) within(timeout time.Duration, what string, condition func(context.Context) error) {
	s.Helper()
	if err := harness.Eventually(s.Context(), timeout, what, condition); err != nil {
		s.Fatal(err)
	}
}

// ip is the only address of a machine, without its prefix length.
func (s *scene) ip(name string) string {
	s.Helper()
	addresses := harness.Addresses(s.machine(name))
	if len(addresses) != 1 {
		s.Fatalf("machine %s has addresses %v, want one", name, addresses)
	}
	return netip.MustParsePrefix(addresses[0]).Addr().String()
}

// claim reads the claim of a machine's first device, whichever provider's it is.
func (s *scene) claim(machine string) (client.Object, error) { return s.deviceClaim(machine, 0) }

// deviceClaim reads the claim of one device of a machine.
func (s *scene) deviceClaim(machine string, device int) (client.Object, error) {
	var claim, found client.Object
	var missing error
	for _, f := range harness.Fixtures {
		claim = ipam.EmptyClaim(f.Provider)
		err := s.env.Client.Get(s.Context(), s.key(ipam.ClaimName(machine, ipam.Slot{Device: device})), claim)
		switch {
		case kube.IsAbsent(err):
			missing = err
		case err != nil:
			return claim, err
		case found != nil:
			return claim, fmt.Errorf("%T %s is there as a %T, too", found, found.GetName(), claim)
		default:
			found = claim
		}
	}
	if found == nil {
		return claim, missing
	}
	return found, nil
}

// claims lists the claims in the namespace, of all providers.
func (s *scene) claims() []client.Object {
	s.Helper()
	return s.listed(ipam.EmptyClaim)
}

// addresses lists the addresses that exist in the namespace, of all providers.
func (s *scene) addresses() []client.Object {
	s.Helper()
	return s.listed(ipam.EmptyAddress)
}

func (s *scene) listed(kind func(ipam.Objects) client.Object) []client.Object {
	s.Helper()
	var all []client.Object
	for _, f := range harness.Fixtures {
		objects, err := harness.List(s.Context(), s.env.Client, kind(f.Provider), client.InNamespace(s.ns))
		if f.Is(harness.OfMetal3) && meta.IsNoMatchError(err) {
			continue // where it is not installed there are none
		}
		if err != nil {
			s.Fatal(err)
		}
		all = append(all, objects...)
	}
	return all
}

func names(objects []client.Object) []string {
	var all []string
	for _, object := range objects {
		all = append(all, object.GetName())
	}
	return all
}

// address finds the object of an address; there must be no second one, not even
// of another provider.
func (s *scene) address(ip string) (client.Object, error) {
	return addressAmong(s.addresses(), ip)
}

func addressAmong(addresses []client.Object, ip string) (client.Object, error) {
	var found client.Object
	for _, address := range addresses {
		if harness.ProviderOf(address).ReadAddress(address).IP != ip {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s and %s are both for %s", found.GetName(), address.GetName(), ip)
		}
		found = address
	}
	if found == nil {
		return nil, fmt.Errorf("no address object is for %s", ip)
	}
	return found, nil
}

// settled waits until the controller has tied the machine's claim to it, and
// returns the address.
func (s *scene) settled(name string) string {
	s.Helper()
	ip := s.ip(name)
	s.eventually("machine "+name+" to adopt its claim", func(context.Context) error {
		return s.isAdopted(name, ip)
	})
	return ip
}

func (s *scene) isAdopted(name, ip string) error {
	claim, err := s.claim(name)
	if err != nil {
		return err
	}
	return s.isAdoptedBy(name, claim, ip)
}

// isAdoptedBy returns an error unless the controller has tied this claim, as it was
// read, to a machine.
func (s *scene) isAdoptedBy(name string, claim client.Object, ip string) error {
	owner := capi.OwnerMachine(claim)
	if machine := s.machine(name); owner.UID != machine.UID || owner.Controller == nil || !*owner.Controller {
		return fmt.Errorf("claim %s has owners %v, want machine %s", claim.GetName(), claim.GetOwnerReferences(), machine.UID)
	}
	if _, moves := claim.GetLabels()[clusterctlv1.ClusterctlMoveLabel]; !moves {
		return fmt.Errorf("claim %s has labels %v, want that of what moves", claim.GetName(), claim.GetLabels())
	}
	// Only metal3 can be asked by a claim.
	if asked := claim.GetAnnotations()["ipAddress"]; harness.ProviderOf(claim) == harness.OfMetal3.Provider && asked != ip {
		return fmt.Errorf("claim %s asks for %q, want %s", claim.GetName(), asked, ip)
	}
	return s.isProtected(ip)
}

// isProtected returns an error unless our finalizer keeps the address.
func (s *scene) isProtected(ip string) error {
	address, err := s.address(ip)
	if err != nil {
		return err
	}
	if !slices.Contains(address.GetFinalizers(), ipam.InUseFinalizer) {
		return fmt.Errorf("address %s has finalizers %v, want ours", address.GetName(), address.GetFinalizers())
	}
	return nil
}

// isHeld returns an error unless the address is protected and the claim that
// holds it is not being deleted.
func (s *scene) isHeld(machine, ip string) error {
	claim, err := s.claim(machine)
	if err != nil {
		return err
	}
	if !claim.GetDeletionTimestamp().IsZero() {
		return fmt.Errorf("claim %s is being deleted", claim.GetName())
	}
	return s.isProtected(ip)
}

// returned waits until nothing is left of an address but its place in the pool.
func (s *scene) returned(ip string) {
	s.Helper()
	s.eventually(ip+" to be back in its pool", s.isReturned(ip))
}

func (s *scene) isReturned(ip string) func(context.Context) error {
	return func(context.Context) error {
		for _, address := range s.addresses() {
			if harness.ProviderOf(address).ReadAddress(address).IP == ip {
				return fmt.Errorf("%s exists, deleted at %v, with finalizers %v", address.GetName(), address.GetDeletionTimestamp(), address.GetFinalizers())
			}
		}
		return nil
	}
}

// noClaims waits until no claim is left in the namespace.
func (s *scene) noClaims() {
	s.Helper()
	s.eventually("all claims to be gone", func(context.Context) error {
		if claims := s.claims(); len(claims) > 0 {
			return fmt.Errorf("%d claims are left, the first is %s", len(claims), claims[0].GetName())
		}
		return nil
	})
}

// refused creates a machine that must be denied with a text that contains this.
func (s *scene) refused(machine client.Object, text string) {
	s.Helper()
	err := s.env.Client.Create(s.Context(), machine)
	if err == nil {
		s.Fatalf("machine %s was created, want it denied with %q", machine.GetName(), text)
	}
	if !strings.Contains(err.Error(), text) {
		s.Fatalf("creating machine %s: got %v, want it denied with %q", machine.GetName(), err, text)
	}
}

// change reads an object, changes it and writes it, until nobody comes between.
func (s *scene) change(object client.Object, change func()) {
	s.Helper()
	if err := s.tryToChange(object, change); err != nil {
		s.Fatalf("changing %T %s: %v", object, object.GetName(), err)
	}
}

func (s *scene) tryToChange(object client.Object, change func()) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		before := object.DeepCopyObject().(client.Object)
		change()
		return s.env.Client.Patch(s.Context(), object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
}

// dropFinalizer takes a finalizer off an object, as its owner does at the end.
func (s *scene) dropFinalizer(object client.Object, finalizer string) {
	s.Helper()
	s.change(object, func() { controllerutil.RemoveFinalizer(object, finalizer) })
}

// annotate sets an annotation, or removes it if the value is nil.
func (s *scene) annotate(object client.Object, key string, value *string) {
	s.Helper()
	s.change(object, func() {
		if value != nil {
			harness.WithAnnotation(key, *value)(object)
			return
		}
		annotations := object.GetAnnotations()
		delete(annotations, key)
		object.SetAnnotations(annotations)
	})
}

// told waits for an event about a machine, and returns its text.
func (s *scene) told(machine, reason string) string {
	s.Helper()
	return s.toldAbout("VSphereMachine", machine, reason).Note
}

// toldAbout waits for an event about an object.
func (s *scene) toldAbout(kind, name, reason string) eventsv1.Event {
	s.Helper()
	var found eventsv1.Event
	s.eventually("event "+reason+" of "+kind+" "+name, func(context.Context) error {
		var seen []string
		for _, event := range s.eventsAbout(kind, name) {
			if event.Reason == reason {
				found = event
				return nil
			}
			seen = append(seen, event.Reason)
		}
		return fmt.Errorf("its events are %v", seen)
	})
	return found
}

// eventsAbout lists the events about an object.
func (s *scene) eventsAbout(kind, name string) []eventsv1.Event {
	s.Helper()
	list := &eventsv1.EventList{}
	if err := s.env.Client.List(s.Context(), list, client.InNamespace(s.ns)); err != nil {
		s.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(event eventsv1.Event) bool {
		return event.Regarding.Kind != kind || event.Regarding.Name != name
	})
}

// controllerOf is the UID of the controller that owns an object.
func controllerOf(object client.Object) string {
	if owner := metav1.GetControllerOf(object); owner != nil {
		return string(owner.UID)
	}
	return ""
}
