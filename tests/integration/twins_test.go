package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/kube"
	"capv-static-ip.dev/tests/harness"
)

// A create that was answered waits for a slow webhook after ours, while another
// create of the name finds the address in use, and is refused.
func TestAddressThatWasAnsweredIsNotGivenBackByATwin(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.rejectMarkedMachines()
	reached, proceed := make(chan struct{}, 10), make(chan struct{})
	s.lateWebhook(func(r *admissionv1.AdmissionRequest) string {
		if r.Name == "cp-0" {
			reached <- struct{}{}
			<-proceed
		}
		return ""
	})
	created := s.createLater(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), late))
	<-reached
	byHand := harness.Machine(s.ns, "by-hand", harness.WithDevices(harness.FixedDevice("10.16.56.88/24")))
	s.create(byHand)
	s.known("10.16.56.88")
	s.refused(s.pooled("cp-0", harness.WithLabel(rejectedLabel, "")), "rejected by the test")
	s.delete(byHand)
	s.gone(byHand)

	s.consistently("the claim that was the answer stays", func(context.Context) error {
		_, err := s.claim("cp-0")
		return err
	})
	s.create(s.pooled("other"))
	close(proceed)
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	if one, two := s.ip("cp-0"), s.ip("other"); one == two {
		t.Errorf("cp-0 and other both have %s", one)
	}
}

// A create waits for a slow webhook after ours, while another of the name, which
// asks for less or elsewhere, is stored. The first then ends in a conflict, and
// nobody tells us.
func TestClaimThatAStoredMachineDoesNotUseIsReaped(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(88, 89))
		first := s.asks(f, "cp-0", late, harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()),
			withPoolOf("1", f.Reference(f.PoolName).Kind+"/"+f.PoolName))
		s.spareIsReaped(f, first, f.Claim(s.ns, "cp-0-1", f.PoolName), s.asks(f, "next"))
	})
	t.Run("of another provider", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		s.pool(harness.OfInCluster)
		spare := harness.OfMetal3
		s.create(spare.Pool(s.ns, spare.WithIPs(88, 88)))
		s.spareIsReaped(harness.OfInCluster, s.asks(spare, "cp-0", late), spare.Claim(s.ns, "cp-0-0", spare.PoolName), s.asks(spare, "next"))
	})
}

// spareIsReaped creates a machine cp-0 that asks one provider for one address, while
// the first of that name waits, and checks that the claim which only the first one
// needed is reaped, and its address given to the next machine.
func (s *scene) spareIsReaped(f harness.Fixture, first, spare, next client.Object) {
	s.Helper()
	reached, proceed := make(chan struct{}, 10), make(chan struct{})
	s.lateWebhook(func(r *admissionv1.AdmissionRequest) string {
		if r.Name == "cp-0" {
			reached <- struct{}{}
			<-proceed
		}
		return ""
	})
	created := s.createLater(first)
	<-reached
	start := time.Now()
	s.create(s.asks(f, "cp-0"))
	close(proceed)
	if err := <-created; !apierrors.IsAlreadyExists(err) {
		s.Fatalf("the first create ended with %v, want a conflict", err)
	}
	ip := s.ip("cp-0")
	s.create(harness.VSphereVM(s.machine("cp-0")))
	// The spare claim may have the same name.
	settled := func(ctx context.Context) error {
		own := f.Claim(s.ns, "cp-0-0", f.PoolName)
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(own), own); err != nil {
			return err
		}
		return s.isAdoptedBy("cp-0", own, ip)
	}
	s.eventually("the machine to adopt its own claim", settled)

	s.reaped(spare)

	// The time of its creation is in whole seconds.
	if age := time.Since(start); age < gracePeriod-time.Second {
		s.Errorf("it was reaped %s after the machine was stored, want no less than %s", age, gracePeriod)
	}
	s.eventually("its address to be given to another machine", func(ctx context.Context) error {
		return client.IgnoreAlreadyExists(s.env.Client.Create(ctx, next))
	})
	if err := settled(s.Context()); err != nil {
		s.Errorf("the machine's own claim: %v", err)
	}
}

func TestMachineThatFindsALostAddressGetsTheNext(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	text, err := ipam.Bindings{Machine: "lost", Bindings: []ipam.Binding{{
		Device: ipam.Device{NetworkName: sharedNetwork}, Pool: metal3.PoolNamed(harness.DefaultPool),
		Claim: "lost-0", Address: netip.MustParsePrefix("10.16.56.88/24"),
	}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	lost := harness.Machine(s.ns, "lost", harness.WithProviderID("vsphere://lost"), harness.WithDevices(harness.FixedDevice("10.16.56.88/24")),
		harness.WithAnnotation(ipam.BindingsAnnotation, text), harness.WithAnnotation("cluster.x-k8s.io/paused", ""))
	s.create(lost)
	s.known("10.16.56.88")

	s.create(s.pooled("cp-0"))

	if got := s.ip("cp-0"); got != "10.16.56.89" {
		t.Errorf("got %s, want 10.16.56.89", got)
	}
	s.annotate(lost, "cluster.x-k8s.io/paused", nil)
}

func TestMachineOfOneNameGetsPastAnyNumberOfAddressesSetAside(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	for i := range 5 {
		ip := fmt.Sprintf("10.16.56.%d", 88+i)
		s.create(harness.Machine(s.ns, fmt.Sprintf("by-hand-%d", i), harness.WithDevices(harness.FixedDevice(ip+"/24"))))
		s.known(ip)
	}

	first := s.env.Client.Create(t.Context(), s.pooled("cp-0"))
	if second := s.env.Client.Create(t.Context(), s.pooled("cp-0")); first != nil && second != nil {
		t.Errorf("got %v, then %v, want the second try to succeed", first, second)
	}
}

func TestClaimByHandWithAnOwnersMarkRefusesNobody(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	set := harness.MachineSet(s.ns, "md", "template")
	s.create(harness.Pool(s.ns), set)
	byHand := harness.Claim(s.ns, "by-hand", harness.DefaultPool)
	harness.WithAnnotation(ipam.RequestedByAnnotation, string(set.UID))(byHand)
	s.create(byHand)
	s.bind(byHand)

	s.create(s.pooled("md-0", harness.WithOwner(set)))
}

func TestKeptClaimIsTakenOnceAndTheOthersGetTheirOwn(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	set := harness.MachineSet(s.ns, "md", "template")
	s.create(harness.Pool(s.ns), set)
	kept := harness.Claim(s.ns, "md-0-0", harness.DefaultPool)
	ipam.Mark(kept, ipam.Machine{NamespacedName: s.key("md-0"), Cluster: harness.DefaultCluster})
	ipam.Use(kept, ipam.Stamp{Time: time.Now(), Request: "earlier"})
	kube.SetAnnotation(kept, ipam.RequestedByAnnotation, string(set.UID))
	kube.SetAnnotation(kept, ipam.KeptAnnotation, "")
	kube.SetAnnotation(kept, ipam.DeviceAnnotation, "0")
	s.create(kept)
	s.bind(kept)

	var creates sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		creates.Go(func() {
			errs[i] = s.env.Client.Create(t.Context(), s.pooled(fmt.Sprintf("md-%d", i+1), harness.WithOwner(set)))
		})
	}
	creates.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// Two pools of two providers overlap, and a machine is created from each at once.
func TestPoolsThatOverlapGiveEachAddressOnceAlsoSideBySide(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.toleratesLostAddresses()
	s.inClusterPool(harness.InClusterAddresses("10.16.57.88-10.16.57.107"))
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.57.88", "10.16.57.107")))
	for i := range 8 {
		names := []string{fmt.Sprintf("a-%d", i), fmt.Sprintf("b-%d", i)}
		var creates sync.WaitGroup
		for j, label := range []string{harness.DefaultPool, harness.DefaultInClusterPool} {
			creates.Go(func() {
				if err := s.env.Client.Create(t.Context(), harness.Machine(s.ns, names[j], harness.WithPool(label))); err != nil {
					t.Error(err)
				}
			})
		}
		creates.Wait()
		if one, two := s.ip(names[0]), s.ip(names[1]); one == two {
			t.Errorf("%s and %s both have %s", names[0], names[1], one)
		}
	}
}
