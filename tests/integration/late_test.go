package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// capiMachine makes the Machine of a VSphereMachine, and its MachineSet.
func (s *scene) capiMachine(name string) *clusterv1.Machine {
	s.Helper()
	set := s.machineSet(name + "-set")
	m := &clusterv1.Machine{}
	m.Namespace, m.Name = s.ns, name
	m.Spec.ClusterName = harness.DefaultCluster
	m.Spec.Bootstrap.DataSecretName = &name
	m.Spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{APIGroup: capvv1.GroupName, Kind: "VSphereMachine", Name: name}
	harness.WithOwner(set)(m)
	s.create(m)
	return m
}

// stored makes a machine that admission leaves as it is: CAPI and CAPV know it already.
func (s *scene) stored(machine *capvv1.VSphereMachine) *capvv1.VSphereMachine {
	s.Helper()
	harness.WithOwner(s.capiMachine(machine.Name))(machine)
	harness.WithFinalizer(harness.MachineFinalizer)(machine)
	s.create(machine)
	return machine
}

// becomesKnown makes a machine that is stored known to CAPI and CAPV.
func (s *scene) becomesKnown(machine *capvv1.VSphereMachine) {
	s.Helper()
	owner := s.capiMachine(machine.Name)
	s.change(machine, func() {
		harness.WithOwner(owner)(machine)
		harness.WithFinalizer(harness.MachineFinalizer)(machine)
	})
}

// served waits until a machine has as many addresses, and holds them.
func (s *scene) served(name string, count int) {
	s.Helper()
	s.within(2*harness.Soon, "machine "+name+" to have its addresses", func(context.Context) error {
		machine := s.machine(name)
		if got := harness.Addresses(machine); len(got) != count {
			return fmt.Errorf("it has %v", got)
		}
		if !slices.Contains(machine.Finalizers, ipam.ReleaseFinalizer) || machine.Annotations[ipam.BindingsAnnotation] == "" {
			return errors.New("it has not our marks")
		}
		return nil
	})
}

// staysWithout watches that a machine gets no address, and nothing is claimed.
func (s *scene) staysWithout(name, why string) {
	s.Helper()
	s.consistently(why, func(context.Context) error {
		if got := harness.Addresses(s.machine(name)); len(got) > 0 {
			return fmt.Errorf("it has %v", got)
		}
		if claims := s.claims(); len(claims) > 0 {
			return fmt.Errorf("there are the claims %v", names(claims))
		}
		return nil
	})
}

// isDone has CAPV let go of a machine that is being deleted.
func (s *scene) isDone(machine *capvv1.VSphereMachine) {
	s.Helper()
	s.delete(machine)
	s.dropFinalizer(machine, harness.MachineFinalizer)
	s.gone(machine)
}

// written is what stands in a machine after it was served.
func (s *scene) written(name string) (spec string, bindings string) {
	s.Helper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(capvv1.GroupVersion.WithKind("VSphereMachine"))
	if err := s.env.Client.Get(s.Context(), s.key(name), object); err != nil {
		s.Fatal(err)
	}
	text, err := json.Marshal(object.Object["spec"])
	if err != nil {
		s.Fatal(err)
	}
	return string(text), object.GetAnnotations()[ipam.BindingsAnnotation]
}

func TestLateMachineGetsWhatAdmissionWouldHaveGiven(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		// Of one pool, the provider chooses which claim gets which address.
		search := harness.WithSearchDomains("a.example.org, b.example.org")
		s.pool(f, f.WithIPs(88, 88), search)
		s.poolOf(f, "second", 89, f.WithIPs(89, 89), search)
		s.poolOf(f, "third", 90, f.WithIPs(90, 90), search)
		named := harness.StaticDevice()
		named.DeviceName = "eth2"
		// One device has a gateway of its own, one is not ours, and one asks for two.
		own := harness.StaticDevice()
		own.Gateway4 = f.IP(2)
		ref := f.Reference(f.PoolName).Kind + "/" + f.PoolName
		machine := func() *capvv1.VSphereMachine {
			return harness.Machine(s.ns, "cp-0", withPoolOf("0", ref), withPoolOf("eth2", "second,third"),
				harness.WithDevices(own, harness.DHCPDevice(), named))
		}
		born := machine()
		s.create(born)
		spec, bindings := s.written("cp-0")
		s.settled0(born)
		s.delete(born)
		s.gone(born)
		for last := 88; last <= 90; last++ {
			s.returned(f.IP(last))
		}

		late := s.stored(machine())

		s.served("cp-0", 3)
		lateSpec, lateBindings := s.written("cp-0")
		expectSame(s, "the spec", lateSpec, spec)
		expectSame(s, "the bindings", lateBindings, bindings)
		if want := []string{harness.MachineFinalizer, ipam.ReleaseFinalizer}; !slices.Equal(s.machine("cp-0").Finalizers, want) {
			t.Errorf("it has the finalizers %v, want %v", s.machine("cp-0").Finalizers, want)
		}
		s.isDone(late)
		s.noClaims()
		s.returned(f.IP(88))
	})
}

// settled0 waits until the first address of a machine is adopted.
func (s *scene) settled0(machine *capvv1.VSphereMachine) {
	s.Helper()
	first, _, _ := strings.Cut(harness.Addresses(s.machine(machine.Name))[0], "/")
	s.eventually("machine "+machine.Name+" to adopt its claim", func(context.Context) error { return s.isAdopted(machine.Name, first) })
}

// Before the Machine owns it, CAPI and CAPV write the machine by what they have read.
func TestLateInjectionWaitsForTheOwner(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		machine := s.asks(f, "")
		machine.GenerateName = "cp-"
		s.create(machine)
		s.staysWithout(machine.Name, "it is left without owner and finalizer")

		s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })
		s.staysWithout(machine.Name, "it is left without owner")
		owner := s.capiMachine(machine.Name)
		s.change(machine, func() {
			controllerutil.RemoveFinalizer(machine, harness.MachineFinalizer)
			harness.WithOwner(owner)(machine)
		})
		s.staysWithout(machine.Name, "it is left without finalizer")

		s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })
		s.served(machine.Name, 1)
		s.settled(machine.Name)
	})
}

func TestMachineOfGenerateNameIsServed(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		machine := s.asks(f, "")
		machine.GenerateName = "cp-"
		s.create(machine)

		s.becomesKnown(machine)

		s.served(machine.Name, 1)
		s.expectDevices(machine.Name, f.Injected(harness.StaticDevice(), 88))
		s.settled(machine.Name)
	})
}

func TestResumedClusterServesItsMachines(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		cluster := harness.Cluster(s.ns, harness.DefaultCluster, paused)
		s.create(cluster, f.Pool(s.ns))
		s.knownToBePaused()
		s.create(s.asks(f, "cp-0"))
		s.becomesKnown(s.machine("cp-0"))
		s.staysWithout("cp-0", "it is left while the Cluster is paused")

		s.change(cluster, func() { cluster.Spec.Paused = nil })

		s.served("cp-0", 1)
		s.settled("cp-0")
	})
}

func TestPausedMachineIsServedWhenItIsResumed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f)
	machine := s.asks(f, "cp-0", harness.WithAnnotation(clusterv1.PausedAnnotation, ""))
	s.stored(machine)
	s.staysWithout("cp-0", "it is left while it is paused")

	s.annotate(machine, clusterv1.PausedAnnotation, nil)

	s.served("cp-0", 1)
}

func TestClaimOfTheOldAdapterOfThisMachineIsUsed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f)
	s.boundTo(s.foreignClaim(f, "somebody"), f.IP(88))
	machine := s.asks(f, "cp-0")
	owner := s.capiMachine("cp-0")
	harness.WithOwner(owner)(machine)
	s.create(machine)
	claim := s.foreignClaim(f, ipam.ClaimName("cp-0", ipam.Slot{}), harness.WithOwner(machine))
	s.boundTo(claim, f.IP(89))

	s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })

	s.served("cp-0", 1)
	if got := s.settled("cp-0"); got != f.IP(89) {
		t.Errorf("it has %s, want %s of its own claim", got, f.IP(89))
	}
	s.expectClaims(2)
}

// partlyBound is a machine that waits: its first device has an address, and the name of
// the claim for its second one is taken.
func (s *scene) partlyBound(f harness.Fixture) (machine *capvv1.VSphereMachine, taken client.Object) {
	s.Helper()
	s.pool(f)
	taken = s.foreignClaim(f, ipam.ClaimName("cp-0", ipam.Slot{Device: 1}))
	s.boundTo(taken, f.IP(88))
	ref := f.Reference(f.PoolName).Kind + "/" + f.PoolName
	machine = s.stored(harness.Machine(s.ns, "cp-0", withPoolOf("0", ref), withPoolOf("1", ref),
		harness.WithDevices(harness.StaticDevice(), onNetwork("storage"))))
	s.told("cp-0", string(ipam.ClaimNotOurs))
	first, err := s.claim("cp-0")
	if err != nil {
		s.Fatal(err)
	}
	s.boundTo(first, f.IP(89))
	return machine, taken
}

func TestLateMachineThatIsDeletedLeavesNothing(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		machine, taken := s.partlyBound(f)
		s.delete(taken)

		s.isDone(machine)

		s.within(2*harness.Soon, "its claims to go", func(context.Context) error {
			if claims := s.claims(); len(claims) > 0 {
				return fmt.Errorf("there are %v", names(claims))
			}
			return nil
		})
		s.returned(f.IP(89))
	})
}

// The claims that are bound stay with the machine, and CAPV never sees one address of
// two.
func TestLateMachineIsNeverServedInPart(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		_, taken := s.partlyBound(f)
		s.consistently("it has no address", func(context.Context) error {
			if got := harness.Addresses(s.machine("cp-0")); len(got) > 0 {
				return fmt.Errorf("it has %v", got)
			}
			return nil
		})

		s.delete(taken)

		s.served("cp-0", 2)
		if got := harness.Addresses(s.machine("cp-0"))[0]; got != f.IP(89)+"/24" {
			t.Errorf("its first address is %s, want that which was bound from the start, %s", got, f.IP(89))
		}
	})
}

func TestLateConflictKeepsTheAddress(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(88, 120))
		machine := s.stored(s.asks(f, "cp-0"))

		for i := range 50 {
			text := fmt.Sprintf(`{"metadata":{"annotations":{"example.org/changed":"%d"}}}`, i)
			if err := s.env.Client.Patch(t.Context(), machine, client.RawPatch("application/merge-patch+json", []byte(text))); err != nil {
				t.Fatal(err)
			}
		}

		s.served("cp-0", 1)
		s.settled("cp-0")
		s.expectClaims(1)
		s.expectDevices("cp-0", f.Injected(harness.StaticDevice(), 88))
		if got := s.machine("cp-0").Annotations["example.org/changed"]; got != "49" {
			t.Errorf("what others wrote last is %q, want 49", got)
		}
	})
}

// metal3 never looks again at a claim that failed.
func TestFailedLateClaimIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 88))
	holder := s.foreignClaim(f, "holder")
	s.boundTo(holder, f.IP(88))
	machine := s.asks(f, "cp-0")
	harness.WithOwner(s.capiMachine("cp-0"))(machine)
	s.create(machine)
	claim := f.Claim(s.ns, ipam.ClaimName("cp-0", ipam.Slot{}), f.PoolName, harness.WithOwner(machine), harness.WithFinalizer(ipam.InUseFinalizer))
	ipam.Mark(claim, ipam.Machine{NamespacedName: s.key("cp-0"), Cluster: harness.DefaultCluster})
	s.create(claim)
	s.eventually("the claim to fail", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(claim), claim); err != nil {
			return err
		}
		if f.Provider.ReadClaim(claim).Failure == "" {
			return errors.New("it has not")
		}
		return nil
	})
	s.delete(holder)
	s.returned(f.IP(88))

	s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })

	s.served("cp-0", 1)
	s.settled("cp-0")
}

func TestLateMachineWithAVirtualMachineIsLeft(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		machine := s.asks(f, "cp-0")
		harness.WithOwner(s.capiMachine("cp-0"))(machine)
		s.create(machine)
		vm := harness.VSphereVM(machine)
		vm.Spec.BiosUUID = "4234b5c2-8b0a-4b1e-9c1f-2f2d3c4b5a69"
		s.create(vm)

		s.change(machine, func() { harness.WithFinalizer(harness.MachineFinalizer)(machine) })

		want := "its virtual machine exists without the address that " + f.AskedBy + " asks for: replace the machine"
		if got := s.told("cp-0", "TooLate"); got != want {
			t.Errorf("it is told %q, want %q", got, want)
		}
		s.staysWithout("cp-0", "it is left")
	})
}

func TestFinalizerThatCAPVWipesComesBack(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		machine := s.stored(s.asks(f, "cp-0"))
		s.served("cp-0", 1)

		// By what it had read before.
		s.change(machine, func() { machine.Finalizers = []string{harness.MachineFinalizer} })

		s.served("cp-0", 1)
		ip := s.settled("cp-0")
		s.isDone(machine)
		s.returned(ip)
	})
}

func TestRefusedLateMachineIsServedWhenThePoolHasRoom(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(88, 88))
		holder := s.asks(f, "cp-9")
		s.create(holder)
		s.settled("cp-9")

		s.stored(s.asks(f, "cp-0"))

		want := s.text(exhausted(f, "1 of 1 addresses in use"))
		for kind, name := range map[string]string{"VSphereMachine": "cp-0", "Machine": "cp-0", "MachineSet": "cp-0-set"} {
			if event := s.toldAbout(kind, name, string(ipam.PoolExhausted)); event.Note != want {
				t.Errorf("%s %s is told %q, want %q", kind, name, event.Note, want)
			}
		}
		s.delete(holder)
		s.served("cp-0", 1)
		s.settled("cp-0")
	})
}

// The template is asked again when it changes.
func TestLateMachineIsServedWhenItsTemplateAsks(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f)
	template := harness.Template(s.ns, "cp")
	s.create(template)
	s.stored(harness.Machine(s.ns, "cp-0", harness.FromTemplate("cp")))
	s.staysWithout("cp-0", "nobody asks for it")

	s.change(template, func() { f.Ask(f.PoolName)(template) })

	s.served("cp-0", 1)
}
