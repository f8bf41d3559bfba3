package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// notServed is what a log says of a kind or a version that is not served.
var notServed = regexp.MustCompile("is not served in the version|no matches for kind|could not find the requested resource")

// aLife is that of a machine with an address of a provider. remade says that a
// claim that is deleted comes back.
type aLife struct {
	harness.Fixture
	remade bool
}

// servesALife is the life of a machine that is sent, changed and read in v1beta1.
func (l aLife) servesALife(s *scene) {
	s.pool(l.Fixture)
	machine := s.older(s.asks(l.Fixture, "cp-0", harness.WithFinalizer(harness.MachineFinalizer)))
	s.apply(machine, harness.ControlPlaneManager)
	s.expectDevices("cp-0", l.Injected(harness.StaticDevice(), 88))
	s.expectHeld("cp-0")
	ip := s.settled("cp-0")
	s.expectOwner("cp-0")

	s.change(machine, func() {
		machine.SetFinalizers([]string{harness.MachineFinalizer})
		machine.SetAnnotations(nil)
	})
	s.eventually("the marks to come back", func(context.Context) error { return s.isMarked("cp-0", ip) })
	s.change(machine, func() {
		machine.Object["spec"] = s.older(harness.Machine(s.ns, "cp-0")).Object["spec"]
	})
	s.expectDevices("cp-0", l.Injected(harness.StaticDevice(), 88))
	s.expectHeld("cp-0")
	if l.remade {
		s.claimComesBack(ip)
	}
	s.virtualMachineThatReportsKeeps(ip)
	s.noClaims()
	s.expectServedVersions()
}

// expectOwner checks that the machine owns its claim in the version that is served.
func (s *scene) expectOwner(name string) {
	s.Helper()
	claim, err := s.claim(name)
	if err != nil {
		s.Fatal(err)
	}
	stored, err := s.plain(claim)
	if err != nil {
		s.Fatal(err)
	}
	owners := stored.GetOwnerReferences()
	if len(owners) != 1 || owners[0].APIVersion != capvv1.GroupName+"/"+oldVersion {
		s.Errorf("claim %s has the owners %v, want the machine in version %s", claim.GetName(), owners, oldVersion)
	}
}

// plain reads an object again, as it is, in a version that is served.
func (s *scene) plain(object client.Object) (*unstructured.Unstructured, error) {
	c := s.env.plainClient(s.T)
	gvk, err := c.GroupVersionKindFor(object)
	if err != nil {
		return nil, err
	}
	mapping, err := c.RESTMapper().RESTMapping(gvk.GroupKind())
	if err != nil {
		return nil, err
	}
	stored := &unstructured.Unstructured{}
	stored.SetGroupVersionKind(mapping.GroupVersionKind)
	return stored, c.Get(s.Context(), client.ObjectKeyFromObject(object), stored)
}

func (s *scene) claimComesBack(ip string) {
	s.Helper()
	former, err := s.claim("cp-0")
	if err != nil {
		s.Fatal(err)
	}
	s.delete(former)
	s.eventually("the claim to come back", func(context.Context) error {
		claim, err := s.claim("cp-0")
		if err == nil && claim.GetUID() == former.GetUID() {
			err = errors.New("it is the former one")
		}
		return err
	})
	if got := s.settled("cp-0"); got != ip {
		s.Errorf("the machine has %s, had %s", got, ip)
	}
	s.expectOwner("cp-0")
	s.toldInServedVersion("ClaimRecreated")
}

// toldInServedVersion waits for an event about machine cp-0, as it is stored.
func (s *scene) toldInServedVersion(reason string) {
	s.Helper()
	event := s.toldAbout("VSphereMachine", "cp-0", reason)
	stored, err := s.plain(&event)
	if err != nil {
		s.Fatal(err)
	}
	if got, _, _ := unstructured.NestedString(stored.Object, "regarding", "apiVersion"); got != capvv1.GroupName+"/"+oldVersion {
		s.Errorf("event %s is about a machine of %s, want version %s", reason, got, oldVersion)
	}
}

// virtualMachineThatReportsKeeps deletes a machine whose VM, which says what address it has
// in its status alone, goes later.
func (s *scene) virtualMachineThatReportsKeeps(ip string) {
	s.Helper()
	fixture := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(vmFinalizer), harness.WithDevices(harness.DHCPDevice()))
	fixture.OwnerReferences = nil
	vm := s.older(fixture)
	s.create(vm)
	before := vm.DeepCopy()
	vm.Object["status"] = map[string]any{"addresses": []any{ip}}
	if err := s.env.Client.Status().Patch(s.Context(), vm, client.MergeFrom(before)); err != nil {
		s.Fatal(err)
	}
	machine := s.machine("cp-0")
	s.delete(machine)
	s.dropFinalizer(machine, harness.MachineFinalizer)
	s.gone(machine)
	s.consistently("the VM's address is protected", func(context.Context) error { return s.isProtected(ip) })
	s.gone(s.deleted(vm, vmFinalizer))
	s.returned(ip)
}

// expectServedVersions checks that nothing in the scene names a version that is not
// served: neither an owner nor an event does.
func (s *scene) expectServedVersions() {
	s.Helper()
	c := s.env.plainClient(s.T)
	for _, kind := range []string{"VSphereMachine", "IPClaim", "IPAddress", "Event"} {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(map[string]string{
			"VSphereMachine": capvv1.GroupName + "/" + oldVersion, "Event": "events.k8s.io/v1",
			"IPClaim": ipamv1.GroupVersion.String(), "IPAddress": ipamv1.GroupVersion.String(),
		}[kind])
		list.SetKind(kind + "List")
		if err := c.List(s.Context(), list, client.InNamespace(s.ns)); err != nil {
			s.Fatal(err)
		}
		content, err := list.MarshalJSON()
		if err != nil {
			s.Fatal(err)
		}
		if at := strings.Index(string(content), capvv1.GroupName+"/"+newVersion); at >= 0 {
			s.Errorf("a %s names %s/%s:\n%s", kind, capvv1.GroupName, newVersion, content[max(0, at-300):at])
		}
	}
}

// expectNotServed checks that the API is what the test is about.
func expectNotServed(t *testing.T, env *environment, object client.Object) {
	t.Helper()
	newer, err := harness.Unstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	c := env.plainClient(t)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(newer), newer); err == nil || client.IgnoreNotFound(err) == nil {
		t.Fatalf("reading %s: got %v, want it not to be served", newer.GroupVersionKind(), err)
	}
}

// plainClient sees the API as it is, where the environment's own lets the tests
// use v1beta2.
func (e *environment) plainClient(t *testing.T) client.Client {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", e.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: harness.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// expectQuiet checks that no replica waits for what is not served, or speaks of it.
func (e *environment) expectQuiet(t *testing.T) {
	t.Helper()
	for _, manager := range e.managers {
		if err := manager.Ready(t.Context()); err != nil {
			t.Errorf("%s is not ready: %v", manager.Name, err)
		}
		log, err := os.ReadFile(manager.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(log)) {
			if notServed.MatchString(line) {
				t.Errorf("%s says: %s", manager.Name, line)
			}
		}
	}
}

// older is an object as a client of the older version sends it.
func (s *scene) older(object client.Object) *unstructured.Unstructured {
	s.Helper()
	manifest, err := harness.AsVersion(object, oldVersion)
	if err != nil {
		s.Fatal(err)
	}
	owners := manifest.GetOwnerReferences()
	for i := range owners {
		owners[i].APIVersion = strings.Replace(owners[i].APIVersion, newVersion, oldVersion, 1)
	}
	manifest.SetOwnerReferences(owners)
	return manifest
}

// played has a test in a scene where claims get one address after the other, from
// 10.16.56.FIRST on.
func played(first int, test func(*scene)) func(*scene) {
	return func(s *scene) {
		given := first - 1
		stop := s.playProvider(func(ctx context.Context, claim *ipamv1.IPClaim) error {
			given++
			address := addressFor(claim, ipamv1.IPAddressStr(fmt.Sprintf("10.16.56.%d", given)))
			address.Spec.Gateway = ptr(ipamv1.IPAddressStr("10.16.56.1"))
			address.Spec.DNSServers = []ipamv1.IPAddressStr{"10.16.56.10", "10.16.56.11"}
			if err := s.env.Client.Create(ctx, address); err != nil {
				return err
			}
			return s.tell(ctx, claim, address.Name)
		})
		defer stop()
		test(s)
	}
}

// playedOldContract is played for the claims of the contract.
func playedOldContract(test func(*scene)) func(*scene) {
	return func(s *scene) {
		stop := s.playOldContract(s.answersInOldVersion)
		defer stop()
		test(s)
	}
}
